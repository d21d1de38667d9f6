"""Conventions against numbers worked out by hand and against plain loops written from the toolkits' description."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vil_tracker.evaluation import conventions
from vil_tracker.evaluation.benchmarks import Benchmark
from vil_tracker.evaluation.conventions import Convention, frame_errors
from vil_tracker.evaluation.scoring import Score, score_frames

# Five frames: the first; a perfect one; one that is half beside; a target that is absent; a true box at x = 0.
TRUTH = np.array([[10.0, 10, 20, 20], [10, 10, 20, 20], [10, 10, 20, 20], [10, 10, 20, 20], [0, 10, 20, 20]])
PREDICTED = np.array([[90.0, 90, 5, 5], [10, 10, 20, 20], [20, 10, 20, 20], [10, 10, 20, 20], [0, 10, 20, 20]])
ABSENT = np.array([False, False, False, True, False])


def score(convention: Convention, predicted=PREDICTED, truth=TRUTH, absent: np.ndarray | None = None) -> Score:
    absent = np.zeros(len(truth), bool) if absent is None else absent
    return score_frames([frame_errors(convention, predicted, truth, absent, np.ones(len(truth)), None)], convention)


def auc_of(overlaps: list[float]) -> float:
    return float(np.mean([np.mean([value > t for value in overlaps]) for t in np.linspace(0, 1, 21)]))


def test_lasot_by_hand() -> None:
    result = score(conventions.LASOT, absent=ABSENT)
    # The absent frame fails everywhere; the frame at x = 0 is not valid: it fails in success and passes in precision.
    assert result.auc == pytest.approx(auc_of([1, 1, 1 / 3, -1, -1]))
    assert result.precision == pytest.approx(4 / 5)
    assert result.normalized_precision == pytest.approx(3 / 5)  # the third is 10 / 20 = 0.5 off
    assert result.op50 == pytest.approx(2 / 5)
    assert result.ao == pytest.approx((1 + 1 + 1 / 3) / 3)


def test_lasot_all_visible_by_hand() -> None:
    truth = np.array([[100.0, 100, 40, 20]] * 4)
    predicted = np.array([[100.0, 100, 40, 20], [110, 100, 40, 20], [125, 100, 40, 20], [104, 102, 40, 20]])
    result = score(conventions.LASOT, predicted, truth)
    # Overlaps 1; 600/1000; 300/1300; 36*18/(1600-648). Distances 0, 10, 25, sqrt(20). In box sizes 0, .25, .625, .141.
    assert result.auc == pytest.approx(auc_of([1, 0.6, 300 / 1300, 648 / 952]))
    assert result.precision == 3 / 4
    assert result.normalized_precision == 2 / 4


def test_otb_keeps_every_frame() -> None:
    result = score(conventions.OTB, absent=ABSENT)
    assert result.auc == pytest.approx(auc_of([1, 1, 1 / 3, 1, 1]))
    assert result.precision == 1.0


def test_uav_fails_targets_at_the_border_and_gaps_in_success_alone() -> None:
    truth = TRUTH.copy()
    truth[2] = np.nan
    result = score(conventions.UAV, truth=truth)
    assert result.auc == pytest.approx(auc_of([1, 1, -1, 1, -1]))
    assert result.precision == 1.0 and result.ao == 1.0


def test_plain_leaves_absent_frames_out() -> None:
    result = score(conventions.PLAIN, absent=ABSENT)
    assert result.frames == 4
    assert result.auc == pytest.approx(auc_of([1, 1, 1 / 3, 1]))


@pytest.mark.parametrize("family", ["uav", "lasot", "lasot_ext", "other"])
@pytest.mark.parametrize("name", ["pytracking", "ostrack"])
def test_pytracking_family_against_a_loop(name: str, family: str) -> None:
    rng = np.random.default_rng(3)
    truth = np.round(rng.uniform(-4, 40, (60, 4)))
    truth[:, 2:] = np.round(rng.uniform(0, 6, (60, 2))) * 4
    truth[0] = [5, 5, 8, 8]
    predicted = truth + rng.normal(0, 3, truth.shape)
    predicted[:, 2:] = np.maximum(predicted[:, 2:], 1)
    absent = rng.random(60) < 0.2
    absent[0] = False
    convention = Benchmark("x", "X", None, "test", conventions.OTB, family).convention(name)
    result = score(convention, predicted, truth, absent=absent)

    overlaps, centers, normals = [], [], []
    for index, (p, t) in enumerate(zip(predicted, truth, strict=True)):
        p = t if index == 0 else p
        has_visibility = family in ("lasot", "lasot_ext")
        valid = (t > 0).all() if name == "pytracking" else (t[2:] > 0).all()
        valid = valid and not (has_visibility and absent[index])
        dx, dy = p[0] + p[2] / 2 - t[0] - t[2] / 2, p[1] + p[3] / 2 - t[1] - t[3] / 2
        w = max(0.0, min(p[0] + p[2], t[0] + t[2]) - max(p[0], t[0]))
        h = max(0.0, min(p[1] + p[3], t[1] + t[3]) - max(p[1], t[1]))
        if valid:
            overlaps.append(w * h / (p[2] * p[3] + t[2] * t[3] - w * h))
            centers.append(math.hypot(dx, dy))
            normals.append(math.hypot(dx / t[2], dy / t[3]))
        else:
            overlaps.append(-1.0)
            centers.append(-1.0 if family == "uav" else math.inf)
            normals.append(-1.0)
            if family == "lasot" and absent[index]:
                centers[-1] = normals[-1] = math.inf
    assert result.auc == pytest.approx(auc_of(overlaps))
    assert result.precision == pytest.approx(np.mean(np.array(centers) <= 20))
    assert result.normalized_precision == pytest.approx(np.mean(np.array(normals) <= 0.2))


def test_trackingnet_rounds_and_takes_areas() -> None:
    rng = np.random.default_rng(5)
    truth = rng.uniform(20, 80, (40, 4))
    predicted = truth + rng.normal(0, 6, truth.shape)
    result = score(conventions.TRACKINGNET, predicted, truth)

    p, t = np.round(predicted), np.round(truth)
    p[0] = t[0]
    low, high = np.maximum(p[:, :2], t[:, :2]), np.minimum(p[:, :2] + p[:, 2:], t[:, :2] + t[:, 2:])
    inter = np.clip(high - low, 0, None).prod(axis=1)
    iou = inter / (p[:, 2:].prod(axis=1) + t[:, 2:].prod(axis=1) - inter)
    offset = (p[:, :2] + p[:, 2:] / 2) - (t[:, :2] + t[:, 2:] / 2)
    axis = np.linspace(0, 1, 21)

    def area(values: np.ndarray) -> float:
        return float(np.trapezoid(values, axis))

    assert result.auc == pytest.approx(area(np.array([(iou > x).mean() for x in axis])))
    distance = np.hypot(*offset.T)
    assert result.precision == pytest.approx(area(np.array([(distance <= 50 * x).mean() for x in axis])))
    relative = np.hypot(*(offset / t[:, 2:]).T)
    assert result.normalized_precision == pytest.approx(area(np.array([(relative <= 0.5 * x).mean() for x in axis])))


def test_the_conventions_differ_on_targets_at_the_border() -> None:
    """The reason why one tracker has three scores on one benchmark."""
    pytracking = score(conventions.pytracking("other"))
    ostrack = score(conventions.ostrack("other"))
    assert pytracking.auc == pytest.approx(auc_of([1, 1, 1 / 3, 1, -1]))
    assert ostrack.auc == pytest.approx(auc_of([1, 1, 1 / 3, 1, 1]))
