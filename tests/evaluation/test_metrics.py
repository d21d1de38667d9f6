"""Properties of the metrics, and errors that name the line."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vil_tracker.errors import UserError
from vil_tracker.evaluation import conventions, metrics
from vil_tracker.evaluation.results import read_result
from vil_tracker.evaluation.scoring import Score, average, score_frames

ALL = [
    conventions.PLAIN,
    conventions.OTB,
    conventions.LASOT,
    conventions.GOT10K,
    conventions.TRACKINGNET,
    conventions.pytracking("other"),
    conventions.ostrack("other"),
]
coordinate = st.integers(1, 300)
boxes = st.lists(st.tuples(coordinate, coordinate, st.integers(2, 200), st.integers(2, 200)), min_size=2, max_size=30)


def errors(convention: conventions.Convention, predicted: np.ndarray, truth: np.ndarray) -> conventions.FrameErrors:
    absent, cover = np.zeros(len(truth), bool), np.ones(len(truth))
    return conventions.frame_errors(convention, predicted, truth, absent, cover, size=(1000, 1000))


def score(convention: conventions.Convention, predicted: np.ndarray, truth: np.ndarray) -> Score:
    return score_frames([errors(convention, predicted, truth)], convention)


@pytest.mark.parametrize("convention", ALL, ids=lambda c: f"{c.toolkit}")
@given(rows=boxes)
@settings(max_examples=20, deadline=None)
def test_truth_against_itself_scores_one(convention: conventions.Convention, rows: list) -> None:
    truth = np.array(rows, dtype=float)
    result = score(convention, truth, truth)
    below_one = convention.success_axis < 1.0  # an overlap of exactly 1 is not greater than 1
    assert np.all(result.curves["success"][below_one] == 1.0)
    assert result.precision == result.normalized_precision == 1.0
    assert result.ao == pytest.approx(1.0) and result.op50 == result.op75 == result.sr50 == result.sr75 == 1.0


@pytest.mark.parametrize("convention", ALL, ids=lambda c: f"{c.toolkit}")
@given(rows=boxes)
@settings(max_examples=20, deadline=None)
def test_never_overlapping_scores_zero_at_every_threshold(convention: conventions.Convention, rows: list) -> None:
    truth = np.array(rows, dtype=float)
    predicted = truth + np.array([501.0, 0.0, 0.0, 0.0])
    iou = errors(convention, predicted, truth).iou
    rest = iou if convention.skip_first else iou[1:]  # the first frame is the ground truth
    assert np.all(metrics.success_curve(rest, convention.success_axis) == 0.0)


@given(st.lists(boxes, min_size=2, max_size=6), st.randoms())
@settings(max_examples=20, deadline=None)
def test_score_does_not_depend_on_the_order_of_sequences(sequences: list, random) -> None:
    convention = conventions.OTB
    noise = np.array([3.0, -2.0, 1.0, 4.0])
    scores = [score(convention, np.array(rows, float) + noise, np.array(rows, float)) for rows in sequences]
    shuffled = scores.copy()
    random.shuffle(shuffled)
    assert average(scores, convention).auc == pytest.approx(average(shuffled, convention).auc, abs=1e-12)


def test_numbers_by_hand() -> None:
    truth = np.array([[10.0, 10, 20, 20]] * 4)
    predicted = np.array([[0.0, 0, 5, 5], [10, 10, 20, 20], [20, 10, 20, 20], [10, 40, 20, 20]])
    # Overlaps: 1 (the first is the truth), 1, 10*20 / (400 + 400 - 200) = 1/3, 0. Distances: 0, 0, 10, 30.
    expected_auc = np.mean([np.mean([1 > t, 1 > t, 1 / 3 > t, 0 > t]) for t in np.linspace(0, 1, 21)])
    assert metrics.success_auc(predicted, truth) == pytest.approx(expected_auc)
    predicted[0] = truth[0]
    precision = metrics.precision_curve(metrics.center_errors(predicted, truth), np.array([20.0, 30.0]))
    assert precision.tolist() == [0.75, 1.0]
    errors = metrics.normalized_center_errors(predicted, truth)  # 10 / 20 = 0.5 is above 0.2
    assert metrics.precision_curve(errors, np.array([0.2, 0.5])).tolist() == [0.5, 0.75]


def test_frames_without_annotation_are_left_out_of_the_plain_metrics() -> None:
    truth = np.array([[10.0, 10, 20, 20], [np.nan] * 4, [10, 10, 20, 20]])
    predicted = np.array([[10.0, 10, 20, 20], [500, 500, 1, 1], [10, 10, 20, 20]])
    assert metrics.success_auc(predicted, truth) == pytest.approx(20 / 21)  # an overlap of 1 is not above 1


@pytest.mark.parametrize(
    ("rows", "line"), [([[1, 2, 3, 4], [1, 2, np.nan, 4]], 2), ([[1, 2, 3, 4], [1, 2, 3, 4], [1, 2, -3, 4]], 3)]
)
def test_bad_boxes_name_the_line(rows: list, line: int) -> None:
    with pytest.raises(UserError, match=f"line {line}"):
        metrics.check_boxes(np.array(rows, dtype=float))


def test_no_boxes_is_an_error() -> None:
    with pytest.raises(UserError, match="no boxes"):
        metrics.success_auc(np.empty((0, 4)), np.empty((0, 4)))
    with pytest.raises(UserError, match="2 predicted boxes for 1"):
        metrics.success_auc(np.ones((2, 4)), np.ones((1, 4)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2,3,4\n1,2,nan,4\n", "line 2"),
        ("1,2,3,4\n1,2,3,4\n1,2,0,4\n", "line 3"),
        ("1,2,3,4\n\n1,2,3,4\n", ":2:"),
        ("1,2,3,4\nfoo\n", ":2:"),
        ("", "line 1"),
    ],
)
def test_result_files_with_bad_boxes_name_file_and_line(tmp_path, text: str, message: str) -> None:
    path = tmp_path / "seq.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_result(path, None)
    assert str(path) in str(caught.value)


def test_box_before_stands_for_an_empty_one_on_request(tmp_path) -> None:
    path = tmp_path / "seq.txt"
    path.write_text("1,2,3,4\n0,0,0,0\nnan,nan,nan,nan\n5,6,7,8\n")
    assert read_result(path, 4, empty="previous").tolist() == [[1, 2, 3, 4]] * 3 + [[5, 6, 7, 8]]
