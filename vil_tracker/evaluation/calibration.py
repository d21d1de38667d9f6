"""How far the tracker's own score can be trusted: calibration, the lost signal, absence and recovery.

A frame counts as correct when the target is there and the overlap is above 0.5. The first frame, whose box is given,
is never counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

CORRECT_OVERLAP = 0.5
BINS = 15
MISSED_OVERLAP, CONFIDENT_SCORE = 0.1, 0.8  # a frame below the first at a score above the second is confidently wrong


@dataclass(frozen=True)
class ConfidenceFrames:
    """The frames of one sequence after the first for which the truth is known.

    Attributes:
        scores: (F,) in [0, 1].
        iou: (F,) overlap with the true box, 0 where the target is absent.
        absent: (F,) bool, the target is out of sight.
        said_lost: (F,) bool, the tracker's state was "lost".
    """

    scores: np.ndarray
    iou: np.ndarray
    absent: np.ndarray
    said_lost: np.ndarray


def reliability(scores: np.ndarray, correct: np.ndarray) -> tuple[float, dict[str, list[Any]]]:
    """Expected calibration error of scores (F,) in [0, 1] (Guo et al., ICML 2017, equation 3) and its diagram, against
    `correct` (F,) bool.

    The diagram, ready for JSON, has per equally wide bin of the score: confidence (mean score) and accuracy (share of
    correct frames), both None in empty bins, and count (of frames).
    """
    index = np.minimum((scores * BINS).astype(int), BINS - 1)
    count = np.bincount(index, minlength=BINS)
    confidence, accuracy = (np.bincount(index, values, BINS) / np.maximum(count, 1) for values in (scores, correct))
    error = (np.abs(accuracy - confidence) * count)[count > 0].sum() / count.sum()
    means = {
        name: [float(value) if number else None for value, number in zip(values, count, strict=True)]
        for name, values in (("confidence", confidence), ("accuracy", accuracy))
    }
    return float(error), {**means, "count": count.tolist()}


def auroc(signal: np.ndarray, positive: np.ndarray) -> float | None:
    """Probability that a frame that is `positive` (F,) bool has the greater `signal` (F,), any real numbers, ties
    counting half; None if one class is empty.
    """
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if positives == 0 or negatives == 0:
        return None
    _, inverse, count = np.unique(signal, return_inverse=True, return_counts=True)
    rank = (np.cumsum(count) - (count - 1) / 2)[inverse]  # mean rank of tied values, from 1
    return float((rank[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def losses(iou: np.ndarray) -> list[tuple[int, int | None]]:
    """Times when the target was lost, by its overlap (F,) in frames that show it: (first frame without overlap, first
    frame after it with overlap above 0.5, or None where the target was not found again).
    """
    events: list[tuple[int, int | None]] = []
    start: int | None = None
    for index, value in enumerate(iou):
        if start is None and value <= 0:
            start = index
        elif start is not None and value > CORRECT_OVERLAP:
            events.append((start, index))
            start = None
    if start is not None:
        events.append((start, None))
    return events


def frames_until_recovery(iou: np.ndarray, absent: np.ndarray) -> list[int | None]:
    """For each reappearance after an absence: frames until the overlap is above 0.5, None if it never is.

    The target must be found before it goes absent again. Found in the frame of its reappearance counts as 0.
    """
    delays: list[int | None] = []
    for start in np.flatnonzero(absent[:-1] & ~absent[1:]) + 1:
        later = np.flatnonzero(absent[start:])
        end = start + int(later[0]) if len(later) else len(absent)
        found = np.flatnonzero(iou[start:end] > CORRECT_OVERLAP)
        delays.append(int(found[0]) if len(found) else None)
    return delays


def measure(parts: Sequence[ConfidenceFrames]) -> dict[str, object] | None:
    """All measures over the pooled frames of a set of sequences, ready for JSON; None without frames.

    Keys: frames; ece and reliability (15 bins); auroc_lost (signal 1 - score against frames that are not correct);
    confidently_wrong (share of frames with an overlap below 0.1 at a score above 0.8); absent (precision and recall
    of the state "lost" against the absent flags; null without flags); recovery (after absences, and after losses of a
    visible target: events, share recovered, median frames).
    """
    parts = [part for part in parts if len(part.scores)]
    if not parts:
        return None
    scores = np.concatenate([part.scores for part in parts])
    absent = np.concatenate([part.absent for part in parts])
    overlap = np.concatenate([part.iou for part in parts])
    correct = (overlap > CORRECT_OVERLAP) & ~absent
    error, diagram = reliability(scores, correct)
    delays = [delay for part in parts for delay in frames_until_recovery(part.iou, part.absent)]
    visible_losses = [event for part in parts for event in losses(part.iou[~part.absent])]
    loss_delays = [None if end is None else end - start for start, end in visible_losses]
    return {
        "frames": len(scores),
        "correct_share": float(correct.mean()),
        "ece": error,
        "reliability": diagram,
        "auroc_lost": auroc(1.0 - scores, ~correct),
        "confidently_wrong": float(((overlap < MISSED_OVERLAP) & (scores > CONFIDENT_SCORE)).mean()),
        "absent": _absence(absent, np.concatenate([part.said_lost for part in parts])),
        "recovery": {"after_absence": _summary(delays), "after_loss": _summary(loss_delays)},
    }


def _absence(absent: np.ndarray, said: np.ndarray) -> dict[str, float | int | None] | None:
    if not absent.any():
        return None  # nothing is flagged: the set does not annotate absence
    hits = int((absent & said).sum())
    return {
        "frames": int(absent.sum()),
        "precision": hits / int(said.sum()) if said.any() else None,
        "recall": hits / int(absent.sum()),
    }


def _summary(delays: Sequence[int | None]) -> dict[str, float | int | None]:
    found = [delay for delay in delays if delay is not None]
    return {
        "events": len(delays),
        "recovered": len(found) / len(delays) if delays else None,
        "median_frames": float(np.median(found)) if found else None,
    }
