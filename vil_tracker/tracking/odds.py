"""Probabilities as log odds, in which independent evidence adds up, and back."""

from __future__ import annotations

import math

_SURE = 6.0  # log odds beyond which a steadied score is no surer


def log_odds(probability: float, most: float) -> float:
    """Of a probability in [0, 1]; within ±``most``, so that none is certain."""
    if not 0.0 < probability < 1.0:
        return math.copysign(most, probability - 0.5)
    return min(max(math.log(probability / (1 - probability)), -most), most)


def probability(log_odds: float) -> float:
    """The inverse of :func:`log_odds`, of finite log odds."""
    return 1.0 / (1.0 + math.exp(-log_odds))


def steadied(before: float, now: float, gain: float) -> float:
    """Two probabilities in turn, the second with weight ``gain``, averaged as log odds: one frame's evidence is noisy,
    and a box that was right is seldom wrong in the next frame. Log odds beyond ±6 count as that."""
    old, new = (log_odds(value, _SURE) for value in (before, now))
    return probability(old + gain * (new - old))
