"""The sequences on which a tracker did worst, with pictures of the moment at which it lost the target."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vil_tracker.data.sequence import Sequence
from vil_tracker.evaluation import metrics
from vil_tracker.evaluation.calibration import losses
from vil_tracker.evaluation.plots import COLORS
from vil_tracker.evaluation.scoring import TrackerScores

TRUTH_COLOR = (255, 221, 51)  # of no tracker
PREDICTED_COLOR = tuple(bytes.fromhex(COLORS[0][1:]))  # of the report's own tracker, as in its curves
_DASH = 10  # pixels
_PICTURE_WIDTH = 360
_AFTER = 15  # frames between the loss and the picture after it


@dataclass(frozen=True)
class Picture:
    """One frame, numbered from 1, with both boxes drawn and encoded as JPEG, and what it shows."""

    frame: int
    caption: str
    jpeg: bytes


@dataclass(frozen=True)
class WorstSequence:
    """One of the worst sequences, in one sentence with frame numbers, and with pictures from before, at and after the
    loss (none where there are no frames).
    """

    name: str
    auc: float
    verdict: str
    pictures: list[Picture]


def find_worst(tracker: TrackerScores, sequences: list[Sequence], count: int = 10) -> list[WorstSequence]:
    """The `count` sequences with the lowest AUC, worst first."""
    if tracker.main is None:
        return []
    by_name = {sequence.name: sequence for sequence in sequences}
    ranked = sorted(tracker.main.sequences.items(), key=lambda item: (item[1].auc, item[0]))[:count]
    return [_describe(by_name[name], tracker.trajectories[name][0].boxes, score.auc) for name, score in ranked]


def _describe(sequence: Sequence, boxes: np.ndarray, auc: float) -> WorstSequence:
    overlap = np.nan_to_num(metrics.overlaps(boxes, sequence.boxes))
    seen = np.flatnonzero(sequence.visible)
    seen = seen[seen > 0]
    if len(seen) == 0:
        return WorstSequence(sequence.name, auc, "no frame after the first shows the target", [])
    events = [(int(seen[start]), None if end is None else int(seen[end])) for start, end in losses(overlap[seen])]
    if events:
        final = next((start for start, end in events if end is None), None)
        moment = events[0][0] if final is None else final
        verdict = "; ".join(_event(start, end) for start, end in events[:6]) + ("; …" if len(events) > 6 else "")
    else:
        moment = int(seen[np.argmin(overlap[seen])])
        verdict = f"never without overlap; lowest in frame {moment + 1} ({overlap[moment]:.2f})"
    return WorstSequence(sequence.name, auc, verdict, _pictures(sequence, boxes, overlap, moment, bool(events)))


def _event(start: int, end: int | None) -> str:
    found = "for good" if end is None else f"and found again in frame {end + 1}"
    return f"lost in frame {start + 1} {found}"


def _pictures(sequence: Sequence, boxes: np.ndarray, overlap: np.ndarray, moment: int, lost: bool) -> list[Picture]:
    if len(sequence.frames) == 0:
        return []
    good = np.flatnonzero(overlap[:moment] > 0.5)
    frames = {
        min(moment + _AFTER, len(boxes) - 1): "later",
        int(good[-1]) if len(good) else 0: "last good" if len(good) else "start",
        moment: "lost" if lost else "lowest overlap",
    }
    return [
        Picture(
            index + 1,
            f"frame {index + 1}, {what}, overlap {overlap[index]:.2f}",
            _draw(sequence.frames[index], sequence.boxes[index], boxes[index]),
        )
        for index, what in sorted(frames.items())
    ]


def _draw(frame: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> bytes:
    scale = _PICTURE_WIDTH / frame.shape[1]
    size = (_PICTURE_WIDTH, max(1, round(frame.shape[0] * scale)))
    canvas = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    for box, color, halo, dashes in ((predicted, PREDICTED_COLOR, 255, False), (truth, TRUTH_COLOR, 20, True)):
        if np.isfinite(box).all():
            x, y, w, h = (round(float(value) * scale) for value in box)
            corners = np.array([(x, y), (x + w, y), (x + w, y + h), (x, y + h), (x, y)])
            lines = _dashes(corners) if dashes else [corners]
            cv2.polylines(canvas, lines, False, (halo,) * 3, 3 if dashes else 4)
            cv2.polylines(canvas, lines, False, color, 2)
    _, data = cv2.imencode(".jpg", cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 82])
    return data.tobytes()


def _dashes(corners: np.ndarray) -> list[np.ndarray]:
    """Every second piece of the lines from corner to corner, so that what lies below the truth's box shows."""
    pieces = []
    for begin, end in zip(corners, corners[1:], strict=False):
        points = np.linspace(begin, end, max(1, int(np.abs(end - begin).max()) // _DASH) + 1).astype(int)
        pieces += [points[i : i + 2] for i in range(0, len(points) - 1, 2)]
    return pieces
