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
from vil_tracker.evaluation.scores import Score, average, score_frames


@dataclass(frozen=True)
class ConventionScores:
    """Scores of one tracker under one convention.

    Attributes:
        convention: which.
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
        name: of the tracker.
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


class FrameSizes:
    """Width and height of sequences, read once from the first frame; None where there are no frames."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[int, int] | None] = {}

    def __call__(self, sequence: Sequence) -> tuple[int, int] | None:
        if sequence.name not in self._known:
            size = None
            if len(sequence.frames):
                height, width = sequence.frames[0].shape[:2]
                size = (width, height)
            self._known[sequence.name] = size
        return self._known[sequence.name]


def score_tracker(
    name: str,
    benchmark: Benchmark,
    sequences: list[Sequence],
    store: ResultStore,
    convention_names: Iterable[str],
    *,
    allow_missing: bool = False,
    empty: str = "error",
    sizes: Callable[[Sequence], tuple[int, int] | None] | None = None,
) -> TrackerScores:
    """Read a tracker's results and score them.

    Args:
        name: of the tracker.
        benchmark: decides the conventions.
        sequences: what must be there.
        store: the results.
        convention_names: of "official", "pytracking" and "ostrack".
        allow_missing: give per-sequence scores where results are missing, and no overall score.
        empty: see `ResultStore.load`.
        sizes: gives a sequence's width and height, for conventions that clip boxes.

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
    if not benchmark.truth_withheld or _has_truth(sequences):
        for convention_name in convention_names:
            convention = benchmark.convention(convention_name)
            scores[convention_name] = _score_convention(
                convention, finished, trajectories, sizes or FrameSizes(), complete=not missing
            )
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


def _has_truth(sequences: list[Sequence]) -> bool:
    return all(len(s.boxes) == 1 or np.isfinite(s.boxes[1:]).any() for s in sequences)


def _score_convention(
    convention: Convention,
    sequences: list[Sequence],
    trajectories: dict[str, list[Trajectory]],
    sizes: Callable[[Sequence], tuple[int, int] | None],
    *,
    complete: bool,
) -> ConventionScores:
    errors: dict[str, list[FrameErrors]] = {}
    for sequence in sequences:
        size = sizes(sequence) if convention.bounded else None
        try:
            errors[sequence.name] = [
                frame_errors(convention, run.boxes, sequence.boxes, sequence.absent, sequence.cover, size)
                for run in trajectories[sequence.name]
            ]
        except UserError as error:
            raise UserError(f"sequence {sequence.name}: {error}") from error
    scores = {
        s.name: score_frames(s.name, errors[s.name], convention, _seconds(trajectories[s.name])) for s in sequences
    }

    def combine(name: str, members: list[Sequence]) -> Score:
        if not convention.pooled:
            return average(name, [scores[s.name] for s in members], convention)
        pool = [part for s in members for part in errors[s.name]]
        times = [part for s in members if (part := _seconds(trajectories[s.name])) is not None]
        return score_frames(name, pool, convention, np.concatenate(times) if times else None)

    def combined(keys: Callable[[Sequence], tuple[str, ...]]) -> dict[str, tuple[Score, int]]:
        parts: dict[str, list[Sequence]] = {}
        for sequence in sequences:
            for key in keys(sequence):
                parts.setdefault(key, []).append(sequence)
        return {key: (combine(key, members), len(members)) for key, members in parts.items()}

    groups = combined(lambda s: (s.dataset,))
    return ConventionScores(
        convention=convention,
        overall=combine("overall", sequences) if complete else None,
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
