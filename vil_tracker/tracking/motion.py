"""Where the target should be next: a Kalman filter of constant velocity over the box's centre."""

from __future__ import annotations

import math

import cv2
import numpy as np

from vil_tracker.boxes import box_centre, box_scale, centred_box

# Standard deviations in units of the target's √(w·h).
_ACCELERATION = 0.10  # change of velocity from one frame to the next
_SURE, _UNSURE = 0.03, 0.6  # error of a measured centre at score 1 and at score 0
_FIRST_VELOCITY = 0.3
_CENTRE_GAIN, _VELOCITY_GAIN, _SIZE_GAIN = 0.8, 0.2, 0.5  # of BoxFilter: share of an error that is taken over
# White noise on the acceleration, held for one frame: position moves by a/2, velocity by a.
_GAIN = np.array([[0.5, 0.0], [0.0, 0.5], [1.0, 0.0], [0.0, 1.0]])
_HELD, _LEAST_NOISE = _GAIN @ _GAIN.T, 1e-9 * np.eye(4)
_FILTER_PARTS = (
    *("transitionMatrix", "measurementMatrix", "processNoiseCov", "measurementNoiseCov"),
    *("statePre", "statePost", "errorCovPre", "errorCovPost", "gain"),
)
_MAX_DISTANCE = 1e6  # of squared distances; keeps everything finite


class MotionModel:
    """Constant velocity over the centre (cv2.KalmanFilter), state (x, y, vx, vy) in pixels, one step per frame.

    ``box`` is the first, (4,) xywh; at rest until shown otherwise.
    """

    def __init__(self, box: np.ndarray) -> None:
        scale = box_scale(box)
        self._filter = cv2.KalmanFilter(4, 2, 0, cv2.CV_64F)
        self._filter.transitionMatrix = np.eye(4) + np.eye(4, k=2)
        self._filter.measurementMatrix = np.eye(2, 4)
        self._filter.statePost = np.array([*box_centre(box), 0.0, 0.0])[:, None]
        deviations = np.array([_SURE, _SURE, _FIRST_VELOCITY, _FIRST_VELOCITY]) * scale
        self._filter.errorCovPost = np.diag(deviations**2)

    def __getstate__(self) -> dict[str, np.ndarray]:
        """OpenCV's filter itself can neither be copied nor pickled."""
        return {name: np.array(getattr(self._filter, name)) for name in _FILTER_PARTS}

    def __setstate__(self, state: dict[str, np.ndarray]) -> None:
        self._filter = cv2.KalmanFilter(4, 2, 0, cv2.CV_64F)
        for name in _FILTER_PARTS:
            setattr(self._filter, name, state[name])

    def predict(self, box: np.ndarray) -> np.ndarray:
        """Go on by one frame and return the expected centre (2,); ``box`` (xywh) sets the scale of the noise."""
        self._filter.processNoiseCov = _HELD * (_ACCELERATION * box_scale(box)) ** 2 + _LEAST_NOISE
        self._filter.predict()
        return self._filter.statePre[:2, 0].copy()

    def squared_distance(self, box: np.ndarray, score: float) -> float:
        """Squared Mahalanobis distance of a box's centre from the forecast; chi-square of two degrees of freedom.

        To be called after :meth:`predict`. At least 0, at most 1e6.
        """
        dx, dy = (box_centre(box) - self._filter.statePre[:2, 0]).tolist()
        (a, b), (c, d) = (self._filter.errorCovPre[:2, :2] + self._noise(box, score)).tolist()
        # By Cramer's rule: a solver takes longer to call than two equations to solve.
        distance = (d * dx * dx - (b + c) * dx * dy + a * dy * dy) / (a * d - b * c)
        return min(max(distance, 0.0), _MAX_DISTANCE) if math.isfinite(distance) else _MAX_DISTANCE

    def correct(self, box: np.ndarray, score: float) -> None:
        """Take in a measured box; the lower its score, the less it counts."""
        self._filter.measurementNoiseCov = self._noise(box, score)
        self._filter.correct(box_centre(box)[:, None])

    @staticmethod
    def _noise(box: np.ndarray, score: float) -> np.ndarray:
        deviation = (_SURE + (_UNSURE - _SURE) * (1.0 - score)) * box_scale(box)
        return np.eye(2) * deviation**2


class BoxFilter:
    """Steadies the boxes of a target that is followed, whose errors differ from frame to frame.

    The centre goes through an alpha-beta filter (a Kalman filter of constant velocity in its steady state), which does
    not lag behind a steady motion; the logarithm of the size through a fading mean. ``box`` as of :class:`MotionModel`.
    """

    def __init__(self, box: np.ndarray) -> None:
        self._centre, self._velocity = box_centre(box), np.zeros(2)
        self._log_size = np.log(np.maximum(box[2:], 1e-3))

    def update(self, box: np.ndarray) -> np.ndarray:
        """The smoothed box (4,) xywh of the next frame, from the one measured there."""
        expected = self._centre + self._velocity
        error = box_centre(box) - expected
        self._centre = expected + _CENTRE_GAIN * error
        self._velocity = self._velocity + _VELOCITY_GAIN * error
        self._log_size += _SIZE_GAIN * (np.log(np.maximum(box[2:], 1e-3)) - self._log_size)
        return centred_box(self._centre, np.exp(self._log_size))


def gate_distance(probability: float) -> float:
    """Squared Mahalanobis distance that a true measurement stays below with this probability, in two dimensions."""
    return -2.0 * math.log(max(1.0 - probability, 1e-12))  # quantile of the chi-square distribution, 2 dof
