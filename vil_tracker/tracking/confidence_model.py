"""The confidence's model: a small perceptron that turns the features of a box into a calibrated probability.

It is fitted on generated clips for given weights (see :mod:`vil_tracker.training.calibrate`) and stored beside them,
together with the network that compares pictures.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np

from vil_tracker.errors import UserError
from vil_tracker.models.verifier import VerifierNet

CONFIDENCE_FEATURES = (
    "peak",  # logit of the chosen cell
    "peak_change",  # the same, relative to the first frame's
    "margin",  # logit of the chosen cell minus that of the best one apart from it
    "entropy",  # of the score map as a distribution, in [0, 1]
    "mass",  # log of the sum of all scores
    "spread",  # root mean square distance of the scores from the box's centre, in crops
    "agreement",  # mean overlap of the box with the boxes that all cells propose, weighted by the squares of the scores
    "jump",  # log(1 + Mahalanobis distance from the motion forecast)
    "resize",  # |log| of the change of size since the last frame
    "growth",  # log of the change of size since the first frame
    "aspect",  # |log| of the change of aspect since the first frame
    "cut",  # share of the box outside the frame
    "tokens",  # cosine between the search tokens on the box and those in the first frame
    "colours",  # Bhattacharyya coefficient of the colours, likewise
    "pattern",  # correlation of the picture shrunk to 8 x 8, likewise
    "same",  # logit of the verifier that this is the first frame's object; 0 without a verifier
    "fit",  # logit of the overlap that the verifier expects; likewise
    "same_change",  # "same" minus its exponential mean over sure frames
    "other",  # greatest logit of the verifier that this is one of the distractors
)
_MAX_SMOOTH_LOGIT = 6.0  # log odds beyond which a smoothed score is no surer


@dataclass(frozen=True)
class ConfidenceModel:
    """A perceptron of one hidden layer over standardised features, and a temperature.

    The temperature divides the logit (Guo et al., "On Calibration of Modern Neural Networks", 2017).
    """

    mean: np.ndarray  # (F,) of the features, in the order of CONFIDENCE_FEATURES
    scale: np.ndarray  # likewise
    hidden: np.ndarray  # (K, F + 1) weights of the hidden units, the last column is the bias; tanh
    output: np.ndarray  # (F + K + 1,) weights of the standardised features themselves, the hidden units and the bias
    temperature: float = 1.0
    verifier: VerifierNet | None = None  # the network behind the last features; None if they were 0

    def logit(self, features: np.ndarray) -> np.ndarray:
        """(..., F) -> (...) log odds before the temperature."""
        z = np.clip((features - self.mean) / self.scale, -5.0, 5.0)
        units = np.tanh(z @ self.hidden[:, :-1].T + self.hidden[:, -1])
        linear = z.shape[-1]
        return z @ self.output[:linear] + units @ self.output[linear:-1] + self.output[-1]

    def probability(self, features: np.ndarray) -> np.ndarray:
        """(..., F) -> (...) probability that the box overlaps the target by more than half."""
        return 1.0 / (1.0 + np.exp(-np.clip(self.logit(features) / self.temperature, -30, 30)))

    def to_json(self) -> str:
        """As weights files hold it; "evidence" and "likeness" are the features and the verifier, as of version 0.1."""
        content: dict[str, object] = {"evidence": list(CONFIDENCE_FEATURES)}
        content |= {name: getattr(self, name).tolist() for name in ("mean", "scale", "hidden", "output")}
        verifier = None if self.verifier is None else self.verifier.to_text()
        return json.dumps(content | {"temperature": self.temperature, "likeness": verifier})

    @staticmethod
    def from_json(text: str) -> ConfidenceModel:
        """The inverse of :meth:`to_json`; UserError where it is damaged, or made for other features."""
        advice = "write it again with scripts/calibrate.py"
        try:
            content = json.loads(text)
            if content["evidence"] != list(CONFIDENCE_FEATURES):
                raise UserError(f"the calibration stored with the weights is of another version: {advice}")
            arrays = {name: np.array(content[name], np.float64) for name in ("mean", "scale", "hidden", "output")}
            temperature = float(content["temperature"])
            verifier = None if content["likeness"] is None else VerifierNet.from_text(content["likeness"])
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise UserError(f"the calibration stored with the weights is damaged ({error}): {advice}") from error
        count, units = len(CONFIDENCE_FEATURES), len(arrays["hidden"])
        shapes = {"mean": (count,), "scale": (count,), "hidden": (units, count + 1), "output": (count + units + 1,)}
        sound = all(arrays[name].shape == shape and np.isfinite(arrays[name]).all() for name, shape in shapes.items())
        if not sound or not (arrays["scale"] > 0).all() or not 0 < temperature < math.inf:
            raise UserError(f"the calibration stored with the weights is damaged (wrong shapes or values): {advice}")
        return ConfidenceModel(**arrays, temperature=temperature, verifier=verifier)


def log_odds(probability: float, most: float) -> float:
    """Of a probability in [0, 1]; within ±``most``, so that none is certain."""
    if not 0.0 < probability < 1.0:
        return math.copysign(most, probability - 0.5)
    return min(max(math.log(probability / (1 - probability)), -most), most)


def probability(log_odds: float) -> float:
    """The inverse of :func:`log_odds`, of finite log odds."""
    return 1.0 / (1.0 + math.exp(-log_odds))


def smooth_logit(before: float, now: float, gain: float) -> float:
    """Two probabilities in turn, the second with weight ``gain``, averaged as log odds: one frame's features are noisy,
    and a box that was right is seldom wrong in the next frame. Log odds beyond ±6 count as that.
    """
    old, new = (log_odds(value, _MAX_SMOOTH_LOGIT) for value in (before, now))
    return probability(old + gain * (new - old))
