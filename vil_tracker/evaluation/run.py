"""The runner: trackers over sequences, in one process or many, on one machine or many.

Work is shared by sequence. Each finished sequence is written at once and atomically, so an interrupted run goes on
where it stopped, and scores are always read back from the files: a resumed run cannot differ from one in one piece.
"""

from __future__ import annotations

import datetime
import logging
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vil_tracker.data.sequence import Sequence
from vil_tracker.errors import UserError, write_lines
from vil_tracker.evaluation.results import ResultStore, Trajectory
from vil_tracker.evaluation.trackers import TrackerSpec
from vil_tracker.results import TrackerLike
from vil_tracker.runtime import Ranks, device_of_process, keep_freed_memory, set_threads
from vil_tracker.tasks import Engine

_log = logging.getLogger(__name__)


Task = tuple[Sequence, int]  # a sequence, and the number of its repetition


@dataclass(frozen=True)
class Failure:
    """A sequence that a tracker could not finish: names, the exception in one line, and its traceback."""

    tracker: str
    sequence: str
    message: str
    details: str


def track_sequence(tracker: TrackerLike, sequence: Sequence, frames: Iterator[np.ndarray] | None = None) -> Trajectory:
    """Run a tracker over a sequence from its first box, on its own frames, or the next ones of ``frames``.

    The first box of the answer is the given one. Only the calls of the tracker are timed, not the decoding.
    """
    count = len(sequence.boxes)
    if frames is None:
        frames = (sequence.frames[index] for index in range(count))
    boxes, seconds, scores = np.empty((count, 4)), np.empty(count), np.ones(count)
    states = ["tracking"] * count
    for index in range(count):
        frame = next(frames)
        start = time.perf_counter()
        if index == 0:
            tracker.init(frame, sequence.boxes[0])
            boxes[0] = sequence.boxes[0]
        else:
            result = tracker.update(frame)
            boxes[index], scores[index], states[index] = result.box, result.score, result.state
        seconds[index] = time.perf_counter() - start
    broken = np.flatnonzero(~np.isfinite(boxes).all(axis=1))
    if len(broken):
        raise ValueError(f"the tracker answered with a box that is not finite in frame {broken[0] + 1}")
    return Trajectory(boxes, seconds, None if np.isnan(scores).any() else scores, tuple(states))


def run_tracker(
    spec: TrackerSpec,
    sequences: list[Sequence],
    store: ResultStore,
    *,
    benchmark: str,
    repetitions: int = 1,
    engine: Engine = Engine(),  # noqa: B008 - frozen
    keep_going: bool = False,
) -> list[Failure]:
    """Bring the results of a tracker on a list of sequences up to date; returns the failures of all ranks.

    Args:
        sequences: what to run on; those that are finished in `store` are kept.
        benchmark: its name; results of different benchmarks are not mixed.
        repetitions: runs per sequence; one is enough for a deterministic tracker.
        engine: where sequences are tracked; one process runs in this one. Sums over another number of threads differ
            in their last bits, so the results depend on it; on the number and place of processes they do not.

    Raises:
        UserError: a sequence failed and `keep_going` is off.
    """
    ranks = Ranks.from_environment()
    identity = {**spec.identity(), "benchmark": benchmark}
    store.check_claim(identity)
    repetitions = 1 if spec.deterministic else repetitions
    # The longest first, so that no process is left with a long one at the end.
    ordered = sorted(sequences, key=lambda sequence: (-len(sequence.boxes), sequence.name))
    everything = [(sequence, index + 1) for sequence in ordered for index in range(repetitions)]
    mine = everything[ranks.rank :: ranks.world]
    open_tasks = [(s, number) for s, number in mine if not store.is_complete(s.name, len(s.boxes), number)]
    if len(open_tasks) < len(mine):
        _say(f"{spec.name}: {len(mine) - len(open_tasks)} of {len(mine)} results are already there")
    failures = []
    before = set_threads(engine.threads)  # one process does the tasks in this one
    try:
        build = _Builder(spec, engine.threads, ranks.local)
        for done, (index, outcome) in enumerate(engine.run(build, open_tasks), start=1):
            sequence, number = open_tasks[index]
            progress = f"{spec.name} [{done}/{len(open_tasks)}] {sequence.name}"
            if ranks.main:
                store.claim(identity)
            if isinstance(outcome, Failure):
                failures.append(outcome)
                write_lines(_failure_path(store, outcome), [outcome.details])
                if not keep_going:
                    break
                _say(f"{progress}: FAILED: {outcome.message}")
                continue
            store.save(sequence.name, outcome, number)
            updates = outcome.update_seconds
            speed = f"{len(updates) / updates.sum():.1f} fps" if updates is not None and len(updates) else "-"
            _say(f"{progress}: {len(outcome.boxes)} frames, {speed}")
    finally:
        set_threads(*before)
    failures = _gather(failures, ranks)
    if failures and not keep_going:
        first = failures[0]
        raise UserError(
            f"{spec.name} failed on {first.sequence}: {first.message}; details in {_failure_path(store, first)}; "
            "finished sequences are kept, and --keep-going passes over failures"
        )
    return failures


@dataclass(frozen=True)
class _Builder:
    """Builds a tracker, and does tasks with it; ``first`` is the place of the first process on this machine."""

    spec: TrackerSpec
    threads: int
    first: int

    def __call__(self, place: int) -> Callable[[Task], Trajectory | Failure]:
        keep_freed_memory()
        set_threads(self.threads)
        spec = replace(self.spec, device=device_of_process(self.spec.device, self.first + place))
        tracker = spec.build()
        return lambda task: _attempt(tracker, spec, task)


def _attempt(tracker: TrackerLike, spec: TrackerSpec, task: Task) -> Trajectory | Failure:
    try:
        return track_sequence(tracker, task[0])
    except Exception as error:  # the boundary between the runner and any tracker: reported, never swallowed
        message = str(error).splitlines()[0] if str(error) else "no message"
        if not isinstance(error, UserError):
            message = f"{type(error).__name__}: {message}"
        return Failure(spec.name, task[0].name, message, traceback.format_exc())


def _gather(failures: list[Failure], ranks: Ranks) -> list[Failure]:
    """Wait for all ranks and collect their failures; results are on the shared file system by then.

    The process group stays for the next tracker: whoever runs them leaves it after the last.
    """
    if ranks.world == 1:
        return failures
    import torch.distributed as dist

    if not dist.is_initialized():
        dist.init_process_group("gloo", timeout=datetime.timedelta(days=7))
    collected: list[list[Failure]] = [[] for _ in range(ranks.world)]
    dist.all_gather_object(collected, failures)
    return [failure for part in collected for failure in part]


def _failure_path(store: ResultStore, failure: Failure) -> Path:
    return store.folder / "failures" / f"{failure.sequence}.txt"


def _say(line: str) -> None:
    """Progress, for people who wait; silent with --quiet."""
    if _log.isEnabledFor(logging.WARNING):
        print(line, file=sys.stderr, flush=True)
