"""Searching the whole frame for a target that is lost or in doubt, a bounded number of crops per frame."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vil_tracker.tracking.confidence_model import log_odds, probability, smooth_logit

SAME_PLACE = 0.2  # boxes that overlap by more are of one thing
PART = 10.0  # boxes of the target's size along each axis of what the verifier compares in one frame
REST = 6  # frames for which a place that was looked at rests
APART = 1.25  # places nearer than this, in units of the target's √(w·h), are seen in one search crop
RIVALS = 2  # places that a new one counts as the best of
UNLIKE_AFTER = 10  # frames in a row in which the similarity has fallen: a blurred target looks unlike itself for a few
MORE_ALIKE = 4.0  # difference of the verifier's logits "same" from which on one of two boxes is clearly the target
FITTING = 0.8  # the verifier's logit of the overlap that such a box has at least
_MOST = 13.8  # bound on the log odds of one judgement, probability 1 - 1e-6


@dataclass(frozen=True)
class RedetectionCandidate:
    """A place where a target that is lost or in doubt may be, found by a search and judged again in every later frame.

    The best of several places scores high by chance, so its first odds are divided by :data:`RIVALS`. In later frames
    the same place is judged wherever it moves, and each judgement multiplies its odds.
    """

    box: np.ndarray  # (4,) xywh in pixels
    log_odds: float  # that the target is there
    score: float  # probability in [0, 1] by the last judgements alone, smoothed as a followed box's score

    @staticmethod
    def first_seen(box: np.ndarray, score: float) -> RedetectionCandidate:
        odds = log_odds(score, _MOST) - math.log(RIVALS)
        return RedetectionCandidate(box, odds, probability(odds))

    def seen_again(self, box: np.ndarray, score: float, gain: float) -> RedetectionCandidate | None:
        """With a further judgement, which moved the box to ``box`` and gave ``score``; ``gain`` as for a followed box.

        None if the place is now less likely than any is before it is looked at.
        """
        total = self.log_odds + log_odds(score, _MOST)
        if total <= -math.log(RIVALS):
            return None
        return RedetectionCandidate(box, total, smooth_logit(self.score, score, gain))

    @property
    def probability(self) -> float:
        return probability(self.log_odds)


class PlaceSearch:
    """Chooses the places of a frame to look at, a part of the frame at a time.

    A part is compared with the target by the verifier, and the places most like it are looked at by the tracker. Parts
    of :data:`PART` boxes along each axis take turns, the nearest to the last known place first, so that the search
    widens step by step to the whole frame. A place that was looked at rests for :data:`REST` frames.
    """

    def __init__(self) -> None:
        self._turn = 0
        self._resting: list[tuple[int, float, float]] = []

    def places(
        self,
        frame: np.ndarray,
        centre: np.ndarray,
        box_size: np.ndarray,
        similarity_map: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
        known: Sequence[np.ndarray],
        count: int,
        least: float = -np.inf,
    ) -> list[np.ndarray]:
        """Centres (2,) of the next places to look at in a frame (H, W, 3) uint8 RGB, the most alike first.

        Args:
            centre: (2,) the last known place.
            box_size: (2,) width and height of the target, in pixels.
            similarity_map: gives centres (N, 2) of boxes of a size (2,) in a picture, and the similarity of each
                to the target, (N,).
            known: centres (2,) of what is looked at anyway in this frame.
            count: how many places at most.
            least: places less like the target than this are passed over.
        """
        parts = frame_parts(frame.shape[1], frame.shape[0], box_size)
        parts.sort(key=lambda part: float(((part[:2] + part[2:]) / 2 - centre) @ ((part[:2] + part[2:]) / 2 - centre)))
        x1, y1, x2, y2 = parts[self._turn % len(parts)].astype(int)
        centres, similarity = similarity_map(frame[y1:y2, x1:x2], box_size)
        centres = centres + (x1, y1)
        resting = [np.array(place) for turn, *place in self._resting if self._turn - turn <= REST]
        reach = APART * math.sqrt(box_size[0] * box_size[1])
        taken = [*known, *resting]
        chosen: list[np.ndarray] = []
        for index in np.lexsort((((centres - centre) ** 2).sum(1), -similarity)):
            if len(chosen) == count or similarity[index] < least:
                break
            place = centres[index]
            if all(np.abs(place - other).max() > reach for other in taken):
                chosen.append(place)
                taken.append(place)
        self._resting = [place for place in self._resting if self._turn - place[0] <= REST]
        self._resting += [(self._turn, float(x), float(y)) for x, y in chosen]
        self._turn += 1
        return chosen


def frame_parts(width: int, height: int, box_size: np.ndarray) -> list[np.ndarray]:
    """Overlapping parts (4,) x1 y1 x2 y2 that cover a frame, of at most :data:`PART` boxes along each axis and at least
    two pixels; a box lies whole in one of them.
    """
    spans = []
    for length, side in zip((width, height), box_size, strict=True):
        part = max(PART * side, 2.0)
        count = 1 if part >= length else math.ceil((length - side) / (part - side))
        starts = np.linspace(0.0, max(length - part, 0.0), count)
        spans.append([(math.floor(start), min(math.ceil(start + part), length)) for start in starts])
    return [np.array([x1, y1, x2, y2]) for y1, y2 in spans[1] for x1, x2 in spans[0]]


def candidate_posterior(other: float, here: float) -> float:
    """Probability that the target is at another place rather than here or nowhere, where each place was judged for
    itself with these probabilities: it cannot be at both.
    """
    there = other * (1 - here)
    return there / max(there + (1 - other), 1e-12)


def clearly_more_alike(other: tuple[float, float], here: tuple[float, float]) -> bool:
    """Whether, by the verifier's answers "same" and "fit" on both, the target is at another place rather than here.

    How alike a right box is differs from video to video, so a score must not rely on it. Of two boxes in one frame it
    tells which one is right: something that hides the target, or stands where it was, may score high, but is nothing
    like it.
    """
    return other[0] - here[0] >= MORE_ALIKE and other[1] >= FITTING
