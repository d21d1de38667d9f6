"""Calibration measures against definitions written as loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vil_tracker.evaluation.calibration import (
    ConfidenceFrames,
    auroc,
    frames_until_recovery,
    losses,
    measure,
    reliability,
)

frames = st.lists(st.tuples(st.integers(0, 20).map(lambda v: v / 20), st.booleans()), min_size=1, max_size=60)


@given(frames)
@settings(max_examples=60, deadline=None)
def test_expected_calibration_error_against_a_loop(rows: list) -> None:
    expected = 0.0
    for b in range(15):
        inside = [(s, c) for s, c in rows if b / 15 <= s < (b + 1) / 15 or (b == 14 and s == 1.0)]
        if inside:
            gap = abs(np.mean([s for s, _ in inside]) - np.mean([c for _, c in inside]))
            expected += gap * len(inside) / len(rows)
    scores, correct = np.array([s for s, _ in rows]), np.array([c for _, c in rows])
    assert reliability(scores, correct)[0] == pytest.approx(expected, abs=1e-9)


@given(frames)
@settings(max_examples=60, deadline=None)
def test_auroc_against_all_pairs(rows: list) -> None:
    positive, negative = [s for s, c in rows if c], [s for s, c in rows if not c]
    found = auroc(np.array([s for s, _ in rows]), np.array([c for _, c in rows]))
    if not positive or not negative:
        assert found is None
    else:
        pairs = [(p > n) + 0.5 * (p == n) for p in positive for n in negative]
        assert found == pytest.approx(np.mean(pairs))


def test_scores_drawn_from_their_own_probability_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(40000)
    assert reliability(scores, rng.random(40000) < scores)[0] < 0.015


def test_losses_and_recoveries_by_hand() -> None:
    iou = np.array([0.8, 0.0, 0.2, 0.6, 0.0, 0.0])
    assert losses(iou) == [(1, 3), (4, None)]
    absent = np.array([0, 1, 1, 0, 0, 1, 0, 0, 1, 0], dtype=bool)
    overlap = np.array([0.9, 0, 0, 0.1, 0.7, 0, 0.9, 0.9, 0, 0.2])
    # Back in frame 3: found one frame later; in frame 6: at once; in frame 9: never.
    assert frames_until_recovery(overlap, absent) == [1, 0, None]


def test_all_measures() -> None:
    absent = np.array([False, True, True, False])
    part = ConfidenceFrames(
        scores=np.array([0.9, 0.1, 0.2, 0.8]),
        iou=np.array([0.8, 0.0, 0.0, 0.9]),
        absent=absent,
        said_lost=np.array([False, True, False, False]),
    )
    found = measure([part])
    assert found is not None
    assert found["auroc_lost"] == 1.0 and found["frames"] == 4 and found["correct_share"] == 0.5
    assert found["confidently_wrong"] == 0.0
    assert found["absent"] == {"frames": 2, "precision": 1.0, "recall": 0.5}
    assert found["recovery"]["after_absence"] == {"events": 1, "recovered": 1.0, "median_frames": 0.0}
    assert found["recovery"]["after_loss"]["events"] == 0
    assert found["ece"] == pytest.approx((0.1 + 0.1 + 0.2 + 0.2) / 4)
    assert measure([]) is None


def test_confidently_wrong_frames_are_counted() -> None:
    part = ConfidenceFrames(
        scores=np.array([0.9, 0.9, 0.7, 0.81]),
        iou=np.array([0.05, 0.15, 0.0, 0.0]),
        absent=np.array([False, False, False, True]),
        said_lost=np.zeros(4, bool),
    )
    found = measure([part])
    assert found is not None and found["confidently_wrong"] == 0.5
