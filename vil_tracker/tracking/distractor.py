"""A distractor that crosses the target's way: how both moved tells which of two boxes is the target.

A network cannot tell apart what looks the same. So where the score map shows a second thing, the difference of both
centres is followed, which a moving camera leaves as it is. While one hides the other it goes on at constant velocity;
when both can be seen again, the target is the one on the expected side. A learned association of such candidates is in
Mayer et al., "Learning Target Candidate Association to Keep Track of What Not to Track" (ICCV 2021).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from vil_tracker.boxes import box_centre, box_scale, convert, iou
from vil_tracker.tracking.confidence import cell_boxes
from vil_tracker.tracking.confidence_model import log_odds
from vil_tracker.tracking.search import SearchOutput

_LEAST_SCORE = 0.1  # of a second thing
_MOST_OVERLAP = 0.3  # of its box with the target's
_LEAST_SEEN = 2  # frames in which both were seen before their motion counts, where one hid the other since then
_LEAST_SEEN_APART = 6  # such frames where none did, so that the best cell has jumped from one to the other
_REMEMBERED = 8  # of these frames
_MOST_UNSEEN = 24  # frames after which a second thing that is not seen any more is forgotten
_NEAR = 0.5  # target sizes between the expected and the seen difference of centres, at most
_NEAR_GROWTH = 0.06  # by which that grows with each frame in which both were not seen
_MOST_PREFERRED = 3.0  # logits by which the score map may prefer the box on the wrong side


@dataclass
class DistractorTrack:
    """The last frames in which a distractor was seen beside the target."""

    size: float  # √(w·h) of the target in pixels
    seen: np.ndarray = field(default_factory=lambda: np.zeros((0, 5)))  # (N, 5): frame, target's and own centre (x, y)

    def see(self, frame: int, target: np.ndarray, own: np.ndarray) -> None:
        """Take in both boxes (4,) xywh of a frame of this number."""
        row = np.concatenate([[frame], box_centre(target), box_centre(own)])
        self.seen, self.size = np.vstack([self.seen, row])[-_REMEMBERED:], box_scale(target)

    def expected(self, frame: int) -> np.ndarray:
        """Centres (2, 2) of the target and of the distractor in a later frame, if both go on at constant velocity."""
        frames, centres = self.seen[:, 0], self.seen[:, 1:]
        away = frames - frames.mean()
        velocity = away @ centres / max(float(away @ away), 1.0)  # of least squares
        return (centres.mean(0) + velocity * (frame - frames.mean())).reshape(2, 2)

    def is_at(self, box: np.ndarray, frame: int) -> bool:
        """Whether a box (4,) xywh lies where the distractor should be in a frame."""
        return float(np.linalg.norm(box_centre(box) - self.expected(frame)[1])) < self.size


def tell_apart(
    track: DistractorTrack | None, view: SearchOutput, frame: int
) -> tuple[DistractorTrack | None, SearchOutput]:
    """What is known of a distractor after the search in a frame of this number, and the output, whose box is now that
    of the second thing where the motion before says that this is the target.
    """
    other, size = second_view(view), box_scale(view.box)
    if track is not None:
        if other is None:
            return (track if frame - track.seen[-1, 0] <= _MOST_UNSEEN else None), view
        target, own = track.expected(frame)
        expected, seen = target - own, box_centre(view.box) - box_centre(other.box)
        unseen = frame - 1 - track.seen[-1, 0]
        most = size * (_NEAR + _NEAR_GROWTH * unseen)
        same, exchanged = np.linalg.norm(expected - seen), np.linalg.norm(expected + seen)
        preferred = _logit(view.peak) - _logit(other.peak)
        enough = len(track.seen) >= (_LEAST_SEEN if unseen else _LEAST_SEEN_APART)
        if enough and exchanged < min(same, most) and preferred < _MOST_PREFERRED:
            view, other, same = other, view, exchanged
        if same > most:
            track = None  # another thing
    if other is not None:
        track = track or DistractorTrack(size)
        track.see(frame, view.box, other.box)
    return track, view


def second_view(view: SearchOutput) -> SearchOutput | None:
    """The output with the best box apart from its own, or None where the score map shows no second thing."""
    rows, columns = view.logits.shape
    padded = np.pad(view.logits, 1, constant_values=-np.inf)
    around = np.max([padded[y : y + rows, x : x + columns] for y in range(3) for x in range(3)], axis=0)
    peaks = np.argwhere((view.logits == around) & (view.logits > _logit(_LEAST_SCORE)))
    boxes = cell_boxes(view)
    for row, column in sorted(peaks.tolist(), key=lambda cell: -float(view.logits[cell[0], cell[1]])):
        in_crop = convert(boxes[row, column], "xywh", "xyxy")
        box = view.geometry.to_image(in_crop)
        if iou(box, view.box) < _MOST_OVERLAP:
            peak = 1.0 / (1.0 + math.exp(-float(view.logits[row, column])))
            return replace(view, box=box, box_in_crop=in_crop, peak=peak)
    return None


def _logit(score: float) -> float:
    return log_odds(score, most=20.0)
