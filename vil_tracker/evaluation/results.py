"""Result files: one set of boxes per sequence, in the format that each benchmark's own toolkit reads.

A tracker's folder holds

- flat layout (all but GOT-10k): `SEQUENCE.txt`; GOT-10k's layout: `SEQUENCE/SEQUENCE_001.txt` (one per repetition) and
  `SEQUENCE/SEQUENCE_time.txt`;
- `times/SEQUENCE.txt`: seconds per frame, the first for `init`, the others for `update` (flat layout only);
- `scores/SEQUENCE.txt`: `score,state` per frame, where the tracker gives scores;
- `run.json`: what made the results.

The file of boxes is written last and atomically: where it is whole, the sequence is finished.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vil_tracker.data.sequence import read_boxes_file
from vil_tracker.errors import UserError, reason, write_json, write_lines
from vil_tracker.evaluation.metrics import check_boxes
from vil_tracker.results import STATES

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trajectory:
    """What a tracker said about one sequence of N frames.

    Attributes:
        boxes: (N, 4) x, y, w, h in pixels.
        seconds: (N,) time per frame, the first for `init`; None if unknown.
        scores: (N,) in [0, 1]; None if the tracker has none.
        states: N words of `Result.state`; None if unknown.
    """

    boxes: np.ndarray
    seconds: np.ndarray | None = None
    scores: np.ndarray | None = None
    states: tuple[str, ...] | None = None

    @property
    def update_seconds(self) -> np.ndarray | None:
        """(N - 1,) time of each update call, or None."""
        return None if self.seconds is None else self.seconds[1:]


class ResultStore:
    """The result files of one tracker on one benchmark."""

    def __init__(self, folder: Path, layout: str = "flat") -> None:
        self.folder = folder
        self.layout = layout

    def boxes_path(self, sequence: str, repetition: int = 1) -> Path:
        if self.layout == "got10k":
            return self.folder / sequence / f"{sequence}_{repetition:03d}.txt"
        return self.folder / f"{sequence}.txt"

    def times_path(self, sequence: str) -> Path:
        if self.layout == "got10k":
            return self.folder / sequence / f"{sequence}_time.txt"
        return self.folder / "times" / f"{sequence}.txt"

    def scores_path(self, sequence: str) -> Path:
        return self.folder / "scores" / f"{sequence}.txt"

    def check_claim(self, identity: dict[str, str]) -> None:
        """Raise UserError if the folder holds results of another tracker or benchmark."""
        path = self.folder / "run.json"
        if path.is_file():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                raise UserError(f"{path} is damaged: delete {self.folder} or choose another --output") from error
            if found != identity:
                changed = sorted(key for key in {*found, *identity} if found.get(key) != identity.get(key))
                raise UserError(
                    f"{self.folder} holds results of another run (different {', '.join(changed)}): "
                    "delete it or choose another --output"
                )

    def claim(self, identity: dict[str, str]) -> None:
        """Mark the folder as belonging to one tracker and benchmark; done once there is something to keep."""
        path = self.folder / "run.json"
        if not path.is_file():
            write_json(path, identity)

    def is_complete(self, sequence: str, frames: int, repetition: int = 1) -> bool:
        """Whether the boxes of a sequence are there and whole."""
        path = self.boxes_path(sequence, repetition)
        try:
            return path.is_file() and len(check_boxes(read_boxes_file(path))) == frames
        except UserError:
            return False

    def save(self, sequence: str, trajectory: Trajectory, repetition: int = 1) -> None:
        """Write the files of one repetition of one sequence, the boxes last."""
        if trajectory.seconds is not None:
            columns = trajectory.seconds[:, None]
            if repetition > 1:
                columns = np.concatenate([self._load_times(sequence)[:, : repetition - 1], columns], axis=1)
            write_lines(self.times_path(sequence), (",".join(f"{v:.8f}" for v in row) for row in columns))
        if trajectory.scores is not None and repetition == 1:
            states = trajectory.states or ("tracking",) * len(trajectory.scores)
            lines = (f"{score:.6f},{state}" for score, state in zip(trajectory.scores, states, strict=True))
            write_lines(self.scores_path(sequence), lines)
        write_lines(
            self.boxes_path(sequence, repetition), (",".join(f"{v:.4f}" for v in row) for row in trajectory.boxes)
        )

    def has(self, sequence: str) -> bool:
        """Whether there is a file of boxes for a sequence, whole or not."""
        return bool(self._find(sequence))

    def load(self, sequence: str, frames: int, *, empty: str = "error", cut: bool = False) -> list[Trajectory] | None:
        """Read all repetitions of a sequence of so many frames; None if there is no result.

        `_`, `-` and `.` are interchangeable in file names, and so is the case of letters. With `empty` "previous" the
        box before stands for one that is NaN or has no area, which is what the toolkits of OTB and LaSOT do. `cut`
        leaves out boxes beyond the sequence's end, with a warning, as LaSOT's toolkit does.

        Raises:
            UserError: boxes that are not numbers, are empty, or are too few or too many, with file and line.
        """
        paths = self._find(sequence)
        if not paths:
            return None
        times, scores, states = self._load_times(sequence), None, None
        if self.scores_path(sequence).is_file():
            scores, states = _read_scores(self.scores_path(sequence), frames)
        trajectories = []
        for index, path in enumerate(paths):
            boxes = read_result(path, frames, empty=empty, cut=cut)
            seconds = times[:, index] if index < times.shape[1] and len(times) == frames else None
            first = index == 0
            trajectories.append(Trajectory(boxes, seconds, scores if first else None, states if first else None))
        return trajectories

    def _find(self, sequence: str) -> list[Path]:
        candidates = [self.folder / f"{sequence}.txt", self.folder / sequence / f"{sequence}.txt"]
        for path in candidates:
            if path.is_file():
                return [path]
        repetitions = sorted((self.folder / sequence).glob(f"{sequence}_[0-9][0-9][0-9].txt"))
        if repetitions or not self.folder.is_dir():
            return repetitions
        return [path for path in sorted(self.folder.glob("*.txt")) if name_key(path.stem) == name_key(sequence)][:1]

    def _load_times(self, sequence: str) -> np.ndarray:
        path = self.times_path(sequence)
        if not path.is_file():
            return np.empty((0, 0))
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
            table = np.loadtxt(lines, delimiter=",", ndmin=2, comments=None) if any(lines) else np.empty((0, 0))
        except (OSError, ValueError) as error:
            why = reason(error).splitlines()[0]
            raise UserError(f"{path}: not a table of seconds ({why}); delete it to go on without times") from error
        if not (np.isfinite(table) & (table >= 0)).all():
            raise UserError(f"{path}: times must be numbers from 0; delete it to go on without times")
        return table


def name_key(name: str) -> str:
    """A name in the form in which spellings such as Jogging-1, jogging_1 and Jogging.1 agree."""
    return name.lower().replace("_", "-").replace(".", "-")


def read_result(path: Path, frames: int | None, *, empty: str = "error", cut: bool = False) -> np.ndarray:
    """Read predicted boxes (N, 4) and check them; arguments and errors as for `ResultStore.load`."""
    boxes = read_boxes_file(path)
    if cut and frames is not None and len(boxes) > frames:
        log.warning("%s: %d boxes for %d frames: those at the end are left out", path, len(boxes), frames)
        boxes = boxes[:frames]
    if len(boxes) == 0:
        raise UserError(f"{path}: line 1: no boxes; one line 'x,y,w,h' per frame is needed")
    unusable = ~np.isfinite(boxes).all(axis=1) | (np.nan_to_num(boxes[:, 2:]) <= 0).any(axis=1)
    if unusable.any() and empty == "previous":
        source = np.maximum.accumulate(np.where(unusable, -1, np.arange(len(boxes))))
        # Before the first usable one there is only a box without area.
        boxes = np.where((source >= 0)[:, None], boxes[np.maximum(source, 0)], 0.0)
    elif unusable.any():
        line = int(np.flatnonzero(unusable)[0])
        shown = ",".join(f"{value:g}" for value in boxes[line])
        raise UserError(
            f"{path}: line {line + 1}: box {shown} is NaN or has no area; with --empty-boxes previous "
            "the box before it is scored instead"
        )
    if frames is not None and len(boxes) != frames:
        raise UserError(
            f"{path}: {len(boxes)} boxes, but the sequence has {frames} frames; one line per frame is needed"
        )
    return boxes


def _read_scores(path: Path, frames: int) -> tuple[np.ndarray, tuple[str, ...]]:
    try:
        rows = [line.split(",") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        scores = np.array([float(row[0]) for row in rows])
        states = tuple(row[1].strip() for row in rows)
    except (OSError, ValueError, IndexError) as error:
        raise UserError(f"{path}: not lines of 'score,state' ({reason(error)}); delete it and run again") from error
    unknown = set(states) - set(STATES)
    if unknown or not ((scores >= 0) & (scores <= 1)).all():
        what = f"the state {sorted(unknown)[0][:40]!r}" if unknown else "a score outside 0 to 1"
        raise UserError(f"{path}: {what}; delete it and run again")
    if len(scores) != frames:
        raise UserError(f"{path}: {len(scores)} scores, but the sequence has {frames} frames; delete it and run again")
    return scores, states
