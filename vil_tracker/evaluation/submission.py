"""Submission archives for the evaluation servers of GOT-10k and TrackingNet, checked before they are written.

GOT-10k (http://got-10k.aitestunion.com/submit_instructions): a zip with `SEQ/SEQ_001.txt` (to `_003` for trackers that
are not deterministic) and `SEQ/SEQ_time.txt` for each of the 180 test sequences; comma-separated; one line per frame.
TrackingNet (EvalAI, and the devkit's metrics.py): a zip with `SEQ.txt` for each of the 511 test sequences;
comma-separated x,y,w,h; one line per frame.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from vil_tracker.data.sequence import Sequence
from vil_tracker.errors import UserError, atomic_write
from vil_tracker.evaluation.benchmarks import Benchmark
from vil_tracker.evaluation.results import ResultStore

_ACCEPTED = ("got10k_test", "trackingnet")
_MAX_SHOWN = 5


def check_possible(path: Path, benchmark: Benchmark) -> None:
    """Raise UserError if no server takes this benchmark or no archive of that name."""
    if benchmark.key not in _ACCEPTED:
        raise UserError(f"--submission: no server takes {benchmark.title}; use it with {' or '.join(_ACCEPTED)}")
    if path.suffix.lower() != ".zip":
        raise UserError(f"--submission {path}: the server takes a zip archive; end the name in .zip")


def write_submission(path: Path, benchmark: Benchmark, sequences: list[Sequence], store: ResultStore) -> int:
    """Check the results of all sequences of the benchmark and write the archive; returns its number of files.

    Raises:
        UserError: no server takes this benchmark, or the results do not have the server's format; nothing is written.
    """
    check_possible(path, benchmark)
    files, problems = collect(benchmark, sequences, store)
    if problems:
        rest = f" (and {len(problems) - _MAX_SHOWN} more)" if len(problems) > _MAX_SHOWN else ""
        raise UserError(f"submission not written: {'; '.join(problems[:_MAX_SHOWN])}{rest}")
    with atomic_write(path) as stream, zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, file in files.items():
            archive.writestr(zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0)), file.read_bytes())
    return len(files)


def collect(benchmark: Benchmark, sequences: list[Sequence], store: ResultStore) -> tuple[dict[str, Path], list[str]]:
    """Files by their name in the archive, and everything that the server would refuse."""
    problems = []
    names = [sequence.name for sequence in sequences]
    if benchmark.names is not None and set(names) != set(benchmark.names):
        missing = [name for name in benchmark.names if name not in set(names)]
        problems.append(f"{len(missing)} of the {benchmark.size} sequences are missing, such as {missing[0]}")
    elif len(names) != benchmark.size:
        problems.append(f"{len(names)} sequences, but the server expects {benchmark.size}")
    files: dict[str, Path] = {}
    for sequence in sequences:
        paths = [store.boxes_path(sequence.name)]
        if benchmark.layout == "got10k":
            repetitions = [store.boxes_path(sequence.name, index) for index in range(1, benchmark.repetitions + 1)]
            paths = [repetitions[0], *(p for p in repetitions[1:] if p.is_file())]
            problems += _check_times(store.times_path(sequence.name), len(sequence.boxes), len(paths))
            files[f"{sequence.name}/{store.times_path(sequence.name).name}"] = store.times_path(sequence.name)
        for path in paths:
            problems += _check_boxes(path, sequence.boxes)
            files[f"{sequence.name}/{path.name}" if benchmark.layout == "got10k" else path.name] = path
    return files, problems


def _check_boxes(path: Path, truth: np.ndarray) -> list[str]:
    table, problem = _table(path)
    if table is None:
        return [problem]
    if table.shape != (len(truth), 4):
        return [f"{path} holds {table.shape[0]} lines of {table.shape[1]} numbers, expected {len(truth)} lines of 4"]
    if not np.isfinite(table).all():
        return [f"{path}:{np.flatnonzero(~np.isfinite(table).all(axis=1))[0] + 1}: not finite"]
    if (table[:, 2:] <= 0).any():
        return [f"{path}:{np.flatnonzero((table[:, 2:] <= 0).any(axis=1))[0] + 1}: a box without area"]
    if np.abs(table[0] - truth[0]).max() > 1.0:
        return [f"{path}:1: the first box is not the given one"]
    return []


def _check_times(path: Path, frames: int, repetitions: int) -> list[str]:
    table, problem = _table(path)
    if table is None:
        return [problem]
    if table.shape != (frames, repetitions):
        return [f"{path} holds {table.shape[0]} lines of {table.shape[1]} times, expected {frames} of {repetitions}"]
    return [] if (np.isfinite(table) & (table >= 0)).all() else [f"{path}: times must be numbers from 0"]


def _table(path: Path) -> tuple[np.ndarray | None, str]:
    """Read strictly: commas between numbers, equally many on each line, no empty lines."""
    if not path.is_file():
        return None, f"{path} is missing"
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], start=1):
        try:
            rows.append([float(word) for word in line.split(",")])
        except ValueError:
            return None, f"{path}:{number}: '{line[:40]}' is not numbers separated by commas"
        if len(rows[-1]) != len(rows[0]):
            return None, f"{path}:{number}: {len(rows[-1])} numbers where line 1 has {len(rows[0])}"
    return (np.array(rows), "") if rows else (None, f"{path} is empty")
