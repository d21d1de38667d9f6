"""Scores of sequences and of sets of sequences, made from curves under one convention."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vil_tracker.errors import UserError
from vil_tracker.evaluation import metrics
from vil_tracker.evaluation.conventions import Convention, FrameErrors

METRIC_NAMES = ("auc", "precision", "normalized_precision", "op50", "op75", "ao", "sr50", "sr75", "fps")


@dataclass(frozen=True)
class Curves:
    """The three curves of a sequence or of a set, each with values in [0, 1].

    Attributes:
        success: (T,) over the convention's `success_axis`.
        precision: (P,) over its `precision_axis`.
        normalized: (P,) over its `normalized_axis`.
    """

    success: np.ndarray
    precision: np.ndarray
    normalized: np.ndarray


@dataclass(frozen=True)
class Score:
    """What one tracker reaches on one sequence, or on a set of sequences.

    Attributes:
        name: of the sequence, or of the set.
        frames: number of frames in the denominator.
        curves: the three curves.
        auc: area under the success curve.
        precision: see `Convention.precision_is_area`.
        normalized_precision: see `Convention.normalized_is_area`.
        op50, op75: share of counted frames with an overlap above 0.5 and 0.75 (overlap precision).
        ao: mean overlap over frames with a usable true box (average overlap).
        sr50, sr75: share of those frames with an overlap above 0.5 and 0.75 (success rate).
        updates: number of timed update calls.
        seconds: their total time.
    """

    name: str
    frames: int
    curves: Curves
    auc: float
    precision: float
    normalized_precision: float
    op50: float
    op75: float
    ao: float
    sr50: float
    sr75: float
    updates: int
    seconds: float

    @property
    def fps(self) -> float | None:
        """Frames per second of the tracker's update calls; None where times are unknown."""
        return self.updates / self.seconds if self.seconds > 0 else None

    def metrics(self) -> dict[str, float | None]:
        """The numbers by name, in the order of `METRIC_NAMES`."""
        return {name: getattr(self, name) for name in METRIC_NAMES}


def score_frames(
    name: str, errors: Iterable[FrameErrors], convention: Convention, seconds: np.ndarray | None = None
) -> Score:
    """Score frames as one pool: those of a sequence (one entry per repetition), or of a whole set.

    Args:
        name: what the score is called.
        errors: frame errors; the entries are concatenated.
        convention: the convention that they were computed under.
        seconds: time of each update call, if known.
    """
    parts = list(errors)
    iou = np.concatenate([part.iou for part in parts])
    valid_iou = iou[np.concatenate([part.valid for part in parts])]
    curves = Curves(
        success=metrics.success_curve(iou, convention.success_axis),
        precision=metrics.precision_curve(np.concatenate([part.center for part in parts]), convention.precision_axis),
        normalized=metrics.precision_curve(
            np.concatenate([part.normalized for part in parts]), convention.normalized_axis
        ),
    )
    return Score(
        name=name,
        frames=len(iou),
        curves=curves,
        **_summaries(curves, convention),
        op50=float((iou > 0.5).mean()),
        op75=float((iou > 0.75).mean()),
        ao=float(valid_iou.mean()),
        sr50=float((valid_iou > 0.5).mean()),
        sr75=float((valid_iou > 0.75).mean()),
        updates=0 if seconds is None else len(seconds),
        seconds=0.0 if seconds is None else float(seconds.sum()),
    )


def average(name: str, scores: Sequence[Score], convention: Convention) -> Score:
    """Average scores over sequences, each with equal weight; times add up.

    Raises:
        UserError: no scores.
    """
    if not scores:
        raise UserError(f"no sequence to average for '{name}'")
    curves = Curves(
        success=np.mean([score.curves.success for score in scores], axis=0),
        precision=np.mean([score.curves.precision for score in scores], axis=0),
        normalized=np.mean([score.curves.normalized for score in scores], axis=0),
    )
    means = {
        key: float(np.mean([getattr(score, key) for score in scores])) for key in ("op50", "op75", "ao", "sr50", "sr75")
    }
    return Score(
        name=name,
        frames=sum(score.frames for score in scores),
        curves=curves,
        **_summaries(curves, convention),
        **means,
        updates=sum(score.updates for score in scores),
        seconds=sum(score.seconds for score in scores),
    )


def _summaries(curves: Curves, convention: Convention) -> dict[str, float]:
    def at(curve: np.ndarray, axis: np.ndarray, value: float) -> float:
        return float(curve[int(np.argmin(np.abs(axis - value)))])

    return {
        "auc": convention.area(curves.success),
        "precision": convention.area(curves.precision)
        if convention.precision_is_area
        else at(curves.precision, convention.precision_axis, metrics.PRECISION_PIXELS),
        "normalized_precision": convention.area(curves.normalized)
        if convention.normalized_is_area
        else at(curves.normalized, convention.normalized_axis, metrics.PRECISION_NORMALIZED),
    }
