"""The motion forecast against a textbook Kalman filter, and its gate against the chi-square distribution."""

from __future__ import annotations

import numpy as np
import pytest

from vil_tracker.boxes import box_centre, box_scale
from vil_tracker.tracking import motion
from vil_tracker.tracking.motion import BoxFilter, MotionModel, gate_distance


def box_at(x: float, y: float, size: float = 20.0) -> np.ndarray:
    return np.array([x - size / 2, y - size / 2, size, size])


def test_equals_a_kalman_filter_written_out() -> None:
    rng = np.random.default_rng(0)
    model = MotionModel(box_at(50, 40))
    deviations = np.array([motion._SURE, motion._SURE, motion._FIRST_VELOCITY, motion._FIRST_VELOCITY]) * 20
    state, covariance = np.array([50.0, 40, 0, 0]), np.diag(deviations**2)
    step = np.array([[1, 0, 1, 0], [0, 1, 0, 1], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    see = np.eye(2, 4)
    for _ in range(10):
        score = float(rng.uniform())
        measured = rng.uniform(30, 60, 2)
        drive = np.array([[0.5, 0], [0, 0.5], [1, 0], [0, 1]])
        state = step @ state
        noise = (motion._ACCELERATION * 20) ** 2
        covariance = step @ covariance @ step.T + drive @ drive.T * noise + 1e-9 * np.eye(4)
        assert np.allclose(model.predict(box_at(0, 0)), state[:2])
        error = (motion._SURE + (motion._UNSURE - motion._SURE) * (1 - score)) * 20
        total = see @ covariance @ see.T + error**2 * np.eye(2)
        difference = measured - see @ state
        expected = difference @ np.linalg.inv(total) @ difference
        assert model.squared_distance(box_at(*measured), score) == pytest.approx(expected)
        gain = covariance @ see.T @ np.linalg.inv(total)
        state, covariance = state + gain @ difference, covariance - gain @ see @ covariance
        model.correct(box_at(*measured), score)


def test_constant_velocity_is_learnt_and_continued() -> None:
    model = MotionModel(box_at(50, 40))
    for index in range(1, 15):
        model.predict(box_at(0, 0))
        model.correct(box_at(50 + 4 * index, 40 - 2 * index), 0.95)
    for index in range(15, 20):  # nothing seen
        assert np.allclose(model.predict(box_at(0, 0)), [50 + 4 * index, 40 - 2 * index], atol=1.0)


def test_a_low_score_counts_less() -> None:
    moved = []
    for score in (0.1, 0.9):
        model = MotionModel(box_at(50, 40))
        model.predict(box_at(0, 0))
        model.correct(box_at(60, 40), score)
        moved.append(float(model.predict(box_at(0, 0))[0]))
    assert 50 < moved[0] < moved[1]


def test_the_gate_is_the_quantile_of_chi_square() -> None:
    # Table of the chi-square distribution, two degrees of freedom.
    assert gate_distance(0.95) == pytest.approx(5.991, abs=1e-3)
    assert gate_distance(0.99) == pytest.approx(9.210, abs=1e-3)
    assert np.isfinite(gate_distance(1.0))


def test_extreme_boxes_stay_finite() -> None:
    model = MotionModel(np.array([0, 0, 1e-9, 1e-9]))
    model.predict(np.array([0, 0, 1e-9, 1e-9]))
    assert model.squared_distance(box_at(1e9, 1e9), 0.5) == 1e6
    assert box_scale(np.zeros(4)) == 1.0 and np.array_equal(box_centre(np.array([1.0, 2, 4, 6])), [3, 5])


def test_the_filter_follows_a_steady_motion_without_lag() -> None:
    boxes = [np.array([100 + 5.0 * i, 80 - 2.0 * i, 40.0, 30.0]) for i in range(60)]
    steady = BoxFilter(boxes[0])
    found = [steady.update(box) for box in boxes[1:]]
    np.testing.assert_allclose(found[-1], boxes[-1], atol=1e-3)


def test_the_filter_takes_out_errors_that_differ_from_frame_to_frame() -> None:
    rng = np.random.default_rng(0)
    truth = np.array([[100 + 3.0 * i, 80.0, 40.0, 30.0] for i in range(300)])
    noisy = truth + rng.normal(0, 2.0, truth.shape)
    steady = BoxFilter(noisy[0])
    found = np.stack([steady.update(box) for box in noisy[1:]])

    def errors(boxes: np.ndarray) -> np.ndarray:
        """Standard deviations of centre and size."""
        wrong = (boxes - truth[1:])[20:]
        return np.concatenate([(wrong[:, :2] + wrong[:, 2:] / 2).std(0), wrong[:, 2:].std(0)])

    # Kalata, "The tracking index", 1984: an alpha-beta filter leaves sqrt((2 a² + b (2 - 3 a)) / (a (4 - 2 a - b))) of
    # errors that are independent; a fading mean of gain g leaves sqrt(g / (2 - g)).
    a, b, g = 0.8, 0.2, 0.5
    expected = [((2 * a**2 + b * (2 - 3 * a)) / (a * (4 - 2 * a - b))) ** 0.5] * 2 + [(g / (2 - g)) ** 0.5] * 2
    np.testing.assert_allclose(errors(found) / errors(noisy[1:]), expected, atol=0.06)
