"""Searching the whole frame for a target that is lost or in doubt, a bounded number of crops per frame."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vil_tracker.boxes import iou
from vil_tracker.data.crops import CropGeometry
from vil_tracker.tracking.confidence import Appearance
from vil_tracker.tracking.confidence_model import log_odds, probability, smooth_logit
from vil_tracker.tracking.search import SearchOutput

SAME_PLACE = 0.2  # boxes that overlap by more are of one thing
OVERLAP = 0.4  # of neighbouring crops, so that a target of a quarter of the crop lies whole in one of them
SCALES = (1.0, 1.5, 2.0, 2.5, 3.0)  # crops may be wider than the ordinary search crop by these factors
_MOST = 13.8  # bound on the log odds of one judgement, probability 1 - 1e-6
FRAMES_PER_PASS = 4  # the finest scale is taken whose grid is searched within so many frames


@dataclass(frozen=True)
class RedetectionCandidate:
    """A place where a target that is lost or in doubt may be, found by a search and judged again in every later frame.

    The best of several places scores high by chance, so its first odds are divided by the number of places judged at
    full scale. In later frames the same place is judged wherever it moves, and each judgement multiplies its odds.

    Attributes:
        box: (4,) xywh in pixels.
        log_odds: that the target is there.
        places: how many places it was the best of.
        score: probability in [0, 1] by the last judgements alone, smoothed as a followed box's score.
    """

    box: np.ndarray
    log_odds: float
    places: int
    score: float

    @staticmethod
    def best_of(box: np.ndarray, score: float, places: int) -> RedetectionCandidate:
        """The best of ``places`` places, with its ``score`` at full scale."""
        odds = log_odds(score, _MOST) - math.log(places)
        return RedetectionCandidate(box, odds, places, probability(odds))

    def seen_again(self, box: np.ndarray, score: float, gain: float) -> RedetectionCandidate | None:
        """With a further judgement, which moved the box to ``box`` and gave ``score``; ``gain`` as for a followed box.

        None if the place is now less likely than any was at first.
        """
        total = self.log_odds + log_odds(score, _MOST)
        if total <= -math.log(self.places):
            return None
        return RedetectionCandidate(box, total, self.places, smooth_logit(self.score, score, gain))

    @property
    def probability(self) -> float:
        """That the target is there, in [0, 1]."""
        return probability(self.log_odds)


class SlidingWindowSearch:
    """Visits a grid of crops over the frame, nearest to the last known place first, again and again.

    The first crops lie around that place and the later ones further out, so that the search widens step by step to the
    whole frame.
    """

    def __init__(self) -> None:
        self._next = 0

    def crops(
        self, width: int, height: int, centre: np.ndarray, side: float, size: int, count: int
    ) -> list[CropGeometry]:
        """The next crops.

        Args:
            width, height: of the frame, in pixels; it may differ from the frame's before.
            centre: (2,) the last known place.
            side: of the ordinary search crop, in pixels.
            size: of the resampled crop.
            count: how many crops.
        """
        grid = coarse_grid(width, height, side, size, count * FRAMES_PER_PASS)
        grid.sort(key=lambda crop: (crop.cx - centre[0]) ** 2 + (crop.cy - centre[1]) ** 2)
        start = self._next % len(grid)
        chosen = (grid[start:] + grid[:start])[: min(count, len(grid))]
        self._next = start + len(chosen)
        return chosen


def coarse_grid(width: int, height: int, side: float, size: int, limit: int) -> list[CropGeometry]:
    """Overlapping crops that cover the frame, at the finest of :data:`SCALES` that needs at most ``limit`` crops, or
    at a still coarser one if even the last needs more.
    """
    scale = SCALES[-1]
    for candidate in SCALES:
        if math.prod(len(_places(length, side * candidate)) for length in (width, height)) <= limit:
            scale = candidate
            break
    while math.prod(len(_places(length, side * scale)) for length in (width, height)) > limit:
        scale *= 1.25  # a target so small in so large a frame: bounded cost comes before a fine search
    return [
        CropGeometry(cx, cy, side * scale, size)
        for cy in _places(height, side * scale)
        for cx in _places(width, side * scale)
    ]


def _places(length: float, side: float) -> list[float]:
    """Centres of crops along one axis."""
    if side >= length:
        return [length / 2]
    count = math.ceil((length - side * OVERLAP) / (side * (1 - OVERLAP)))
    return [float(value) for value in np.linspace(side / 2, length - side / 2, max(count, 2))]


def candidate_score(seen: Appearance) -> float:
    """Rank of a place seen in a coarse crop: log odds of the score map and of the verifier, whose errors are nearly
    independent, added up.
    """
    return seen.peak + seen.alike[0]


def candidate_posterior(other: float, here: float) -> float:
    """Probability that the target is at another place rather than here or nowhere, where each place was judged for
    itself with these probabilities: it cannot be at both.
    """
    there = other * (1 - here)
    return there / max(there + (1 - other), 1e-12)


def apart(views: Sequence[SearchOutput], count: int) -> list[SearchOutput]:
    """The first outputs that show different places, at most ``count``."""
    chosen: list[SearchOutput] = []
    for view in views:
        if len(chosen) < count and all(iou(view.box, other.box) < SAME_PLACE for other in chosen):
            chosen.append(view)
    return chosen
