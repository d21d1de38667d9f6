"""From result files to scores: per sequence, per group, per attribute and overall, under one convention or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from vil_tracker.data.sequence import Sequence
from vil_tracker.errors import UserError
from vil_tracker.evaluation import calibration, metrics
from vil_tracker.evaluation.benchmarks import Benchmark
from vil_tracker.evaluation.calibration import ConfidenceFrames
from vil_tracker.evaluation.conventions import Convention, FrameErrors, frame_errors
from vil_tracker.evaluation.results import ResultStore, Trajectory

METRIC_NAMES = ("auc", "precision", "normalized_precision", "op50", "op75", "ao", "sr50", "sr75", "fps")
CURVES = ("success", "precision", "normalized_precision")


@dataclass(frozen=True)
class Score:
    """What one tracker reaches on one sequence, or on a set of sequences.

    Attributes:
        frames: number of frames in the denominator.
        curves: share of frames (T,) in [0, 1] over the convention's axis of that name, by the names in `CURVES`.
        auc: area under the success curve.
        precision, normalized_precision: see `Convention.areas`.
        op50, op75: share of counted frames with an overlap above 0.5 and 0.75 (overlap precision).
        ao: mean overlap over frames with a usable true box (average overlap).
        sr50, sr75: share of those frames with an overlap above 0.5 and 0.75 (success rate).
        updates: number of timed update calls.
        seconds: their total time.
    """

    frames: int
    curves: dict[str, np.ndarray]
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


def score_frames(errors: Iterable[FrameErrors], convention: Convention, seconds: np.ndarray | None = None) -> Score:
    """Score frames under a convention as one pool: those of a sequence (one entry per repetition), or of a whole set,
    with the time of each update call in seconds, if known.
    """
    parts = list(errors)
    iou, center, normalized, valid = (
        np.concatenate([getattr(part, key) for part in parts]) for key in ("iou", "center", "normalized", "valid")
    )
    valid_iou = iou[valid]
    curves = {
        "success": metrics.success_curve(iou, convention.success_axis),
        "precision": metrics.precision_curve(center, convention.precision_axis),
        "normalized_precision": metrics.precision_curve(normalized, convention.normalized_precision_axis),
    }
    return Score(
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


def average(scores: list[Score], convention: Convention) -> Score:
    """Average scores, at least one, over sequences, each with equal weight; times add up."""
    curves = {key: np.mean([score.curves[key] for score in scores], axis=0) for key in CURVES}
    means = {
        key: float(np.mean([getattr(score, key) for score in scores])) for key in ("op50", "op75", "ao", "sr50", "sr75")
    }
    return Score(
        frames=sum(score.frames for score in scores),
        curves=curves,
        **_summaries(curves, convention),
        **means,
        updates=sum(score.updates for score in scores),
        seconds=sum(score.seconds for score in scores),
    )


def _summaries(curves: dict[str, np.ndarray], convention: Convention) -> dict[str, float]:
    found = {"auc": convention.area(curves["success"])}
    for name, threshold in (
        ("precision", metrics.PRECISION_PIXELS),
        ("normalized_precision", metrics.PRECISION_NORMALIZED),
    ):
        nearest = np.argmin(np.abs(getattr(convention, f"{name}_axis") - threshold))
        found[name] = convention.area(curves[name]) if convention.areas else float(curves[name][nearest])
    return found


@dataclass(frozen=True)
class ConventionScores:
    """Scores of one tracker under one convention.

    Attributes:
        overall: over all sequences; None where sequences are missing.
        sequences: by name, in the benchmark's order.
        groups: by the folder that sequences come from, with their number; empty if there is only one.
        attributes: by challenge attribute, with the number of sequences that have it.
    """

    convention: Convention
    overall: Score | None
    sequences: dict[str, Score]
    groups: dict[str, tuple[Score, int]]
    attributes: dict[str, tuple[Score, int]]


@dataclass(frozen=True)
class TrackerScores:
    """Everything known about one tracker on one benchmark.

    Attributes:
        conventions: scores by convention name, in the order asked for; empty where the truth is withheld.
        trajectories: per sequence, one per repetition.
        missing: sequences without a result.
        confidence: measures of its score, see `calibration.measure`; None without scores.
        fps: of all update calls together; None where times are unknown.
    """

    name: str
    conventions: dict[str, ConventionScores]
    trajectories: dict[str, list[Trajectory]]
    missing: list[str]
    confidence: dict[str, object] | None
    fps: float | None

    @property
    def main(self) -> ConventionScores | None:
        """Scores under the first convention asked for."""
        return next(iter(self.conventions.values()), None)


def score_tracker(
    name: str,
    benchmark: Benchmark,
    sequences: list[Sequence],
    store: ResultStore,
    convention_names: Iterable[str],
    *,
    allow_missing: bool = False,
    empty: str = "error",
) -> TrackerScores:
    """Read a tracker's results and score them under conventions of the benchmark.

    With `allow_missing` the sequences that are there get scores, and there is no overall one. `empty` is that of
    `ResultStore.load`.

    Raises:
        UserError: missing results (naming them), or damaged ones (naming file and line).
    """
    trajectories: dict[str, list[Trajectory]] = {}
    missing = []
    for sequence in sequences:
        loaded = store.load(sequence.name, len(sequence.boxes), empty=empty, cut=benchmark.official.cut_results)
        if loaded is None:
            missing.append(sequence.name)
        else:
            trajectories[sequence.name] = loaded
    if missing and not allow_missing:
        raise UserError(
            f"{name}: no score over missing sequences: {len(missing)} of {len(sequences)} have no result in "
            f"{store.folder}: {', '.join(missing)}; run the tracker on them, or pass them over with --keep-going"
        )
    finished = [sequence for sequence in sequences if sequence.name in trajectories]
    scores: dict[str, ConventionScores] = {}
    known = all(len(s.boxes) == 1 or np.isfinite(s.boxes[1:]).any() for s in sequences)
    if known or not benchmark.truth_withheld:
        for convention_name in convention_names:
            convention = benchmark.convention(convention_name)
            scores[convention_name] = _score_convention(convention, finished, trajectories, complete=not missing)
    times = [times for runs in trajectories.values() if (times := _seconds(runs)) is not None and len(times)]
    return TrackerScores(
        name=name,
        conventions=scores,
        trajectories=trajectories,
        missing=missing,
        confidence=calibration.measure(
            [frames for s in finished if (frames := _confidence_frames(s, trajectories[s.name][0])) is not None]
        ),
        fps=sum(len(t) for t in times) / float(sum(t.sum() for t in times)) if times else None,
    )


def _score_convention(
    convention: Convention, sequences: list[Sequence], trajectories: dict[str, list[Trajectory]], *, complete: bool
) -> ConventionScores:
    errors: dict[str, list[FrameErrors]] = {}
    for sequence in sequences:
        size = sequence.size if convention.bounded else None
        try:
            errors[sequence.name] = [
                frame_errors(convention, run.boxes, sequence.boxes, sequence.absent, sequence.cover, size)
                for run in trajectories[sequence.name]
            ]
        except UserError as error:
            raise UserError(f"sequence {sequence.name}: {error}") from error
    scores = {s.name: score_frames(errors[s.name], convention, _seconds(trajectories[s.name])) for s in sequences}

    def combine(members: list[Sequence]) -> Score:
        if not convention.pooled:
            return average([scores[s.name] for s in members], convention)
        pool = [part for s in members for part in errors[s.name]]
        times = [part for s in members if (part := _seconds(trajectories[s.name])) is not None]
        return score_frames(pool, convention, np.concatenate(times) if times else None)

    def combined(keys: Callable[[Sequence], tuple[str, ...]]) -> dict[str, tuple[Score, int]]:
        parts: dict[str, list[Sequence]] = {}
        for sequence in sequences:
            for key in keys(sequence):
                parts.setdefault(key, []).append(sequence)
        return {key: (combine(members), len(members)) for key, members in parts.items()}

    groups = combined(lambda s: (s.dataset,))
    return ConventionScores(
        convention=convention,
        overall=combine(sequences) if complete else None,
        sequences=scores,
        groups=groups if len(groups) > 1 else {},
        attributes=dict(sorted(combined(lambda s: s.attributes).items())),
    )


def _seconds(runs: list[Trajectory]) -> np.ndarray | None:
    times = [part for run in runs if (part := run.update_seconds) is not None]
    return np.concatenate(times) if times else None


def _confidence_frames(sequence: Sequence, run: Trajectory) -> ConfidenceFrames | None:
    """Frames after the first whose truth is known: a visible target with a box, or a flagged absence."""
    if run.scores is None:
        return None
    known = (sequence.visible | sequence.absent)[1:]
    overlap = np.nan_to_num(metrics.overlaps(run.boxes, sequence.boxes))[1:]
    absent = sequence.absent[1:]
    states = np.array(run.states or ("tracking",) * len(run.scores))[1:]
    return ConfidenceFrames(
        scores=run.scores[1:][known],
        iou=np.where(absent, 0.0, overlap)[known],
        absent=absent[known],
        said_lost=(states == "lost")[known],
    )
