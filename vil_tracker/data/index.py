"""A cached index of a data set, so that a start neither lists nor reads what has not changed.

One process scans a data set while others wait. The result is JSON with names, and flat files that are mapped into
memory and shared: a row per frame, the numbers of each sequence, the numbering of its frames. A later start checks the
times of folders and annotation files, never of frames; one that trusts the index checks nothing. An index is found by
what the folder holds, not by its path.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from filelock import FileLock
from tqdm import tqdm

from vil_tracker.data.readers.base import Candidate, Item, Place, Reader, split_number
from vil_tracker.data.sequence import visible_frames
from vil_tracker.errors import UserError, atomic_write, make_folder
from vil_tracker.runtime import cache_folder

log = logging.getLogger(__name__)

VERSION = 2
#: One annotated frame on the disk. ``cut`` is 0, 1 or -1 for "not annotated".
ROW = np.dtype([("box", "<f8", 4), ("cover", "<f4"), ("absent", "?"), ("exists", "?"), ("cut", "i1")])
#: Consecutive frame names: prefix, digits (minimum), suffix, first number, count. Count 0 is one unnumbered name.
Run = tuple[str, int, str, int, int]

_ROWS, _COLUMNS, _LINES, _WATCHED = "rows", "columns", "lines", "watched"  # files of an index beside its JSON
_CHUNK = 256  # sequences read between two writes; bounds memory on data sets of millions of frames


def encode_names(names: Iterable[str]) -> list[Run]:
    """Frame names as runs of consecutive numbers."""
    runs: list[Run] = []
    for name in names:
        if (parts := split_number(name)) is None:
            runs.append((name, 0, "", 0, 0))
            continue
        prefix, digits, suffix = parts
        number = int(digits)
        if runs:
            p, width, s, first, count = runs[-1]
            if count and (p, s, first + count) == (prefix, suffix, number) and f"{number:0{width}d}" == digits:
                runs[-1] = (p, width, s, first, count + 1)
                continue
        runs.append((prefix, len(digits) if digits[0] == "0" else 1, suffix, number, 1))
    return runs


def decode_names(runs: Iterable[Run]) -> Iterator[str]:
    """The names that :func:`encode_names` was given."""
    for prefix, width, suffix, first, count in runs:
        if count == 0:
            yield prefix
        for number in range(first, first + count):
            yield f"{prefix}{number:0{width}d}{suffix}"


class JsonLines(Sequence[Any]):
    """The values of a file of one JSON value per line, read when they are asked for; each process maps the file."""

    def __init__(self, path: Path, ends: np.ndarray) -> None:
        self.path, self.ends = path, ends
        self._bytes: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        if self._bytes is None:
            self._bytes = np.memmap(self.path, np.uint8, mode="r")
        begin = int(self.ends[index - 1]) if index else 0
        return json.loads(self._bytes[begin : int(self.ends[index])].tobytes())

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "ends": self.ends, "_bytes": None}


@dataclass
class Index:
    """What a scan of one split found; S sequences over F sets of frames.

    Attributes:
        folder: the data set's folder; every path below is relative to it, with forward slashes.
        frames: F entries: (folder of frames, runs of names), or (video file, number of frames).
        videos: whether any of them is a video file.
        names: S names; None for stills, whose names are made from the picture's.
        owners: S positions in ``frames``, in rising order; None where sequence i has frames i.
        starts: (S + 1,) first row of each sequence in the row file, and the end.
        visible: (S,) number of frames on which the target can serve as template or target.
        missing, missing_frames: sequences of the official list, number of annotated frames that are not on the disk.
        problems: sequences that cannot be used, and why.
        rows: the row file, or the rows themselves where no cache could be written.
    """

    folder: Path
    frames: Sequence[tuple[str, Any]]
    videos: bool
    names: list[str] | None
    owners: np.ndarray | None
    starts: np.ndarray
    visible: np.ndarray
    missing: tuple[str, ...]
    missing_frames: int
    problems: tuple[str, ...]
    rows: Path | np.ndarray


def item_rows(item: Item) -> np.ndarray:
    """An item's annotation as :data:`ROW` records (N,)."""
    rows = np.zeros(len(item.boxes), ROW)
    rows["box"] = item.boxes
    rows["cover"] = 1.0 if item.cover is None else item.cover
    rows["absent"] = False if item.absent is None else item.absent
    rows["exists"] = True if item.exists is None else item.exists
    rows["cut"] = -1 if item.cut is None else item.cut
    return rows


def visible_rows(rows: np.ndarray) -> np.ndarray:
    """Frames that can serve as template or target: on the disk, box with area, not absent, not wholly covered."""
    return rows["exists"] & visible_frames(rows["box"], rows["absent"], rows["cover"])


def _read_all(reader: Reader, folder: Path, candidates: Sequence[Candidate]) -> Iterator[tuple[Candidate, Any]]:
    """Read candidates in order, several at a time (the disk is the bottleneck); an error stands in for its item."""

    def read(candidate: Candidate) -> Item | UserError:
        try:
            return reader.read_sequence(folder, candidate)
        except UserError as error:
            return error

    if reader.stills:  # already in memory
        yield from ((candidate, read(candidate)) for candidate in candidates)
        return
    with ThreadPoolExecutor(max_workers=8) as pool:
        for start in range(0, len(candidates), _CHUNK):
            chunk = candidates[start : start + _CHUNK]
            yield from zip(chunk, pool.map(read, chunk), strict=True)


def _scan(reader: Reader, folder: Path, split: str, sink: IO[bytes], store: Path | None) -> tuple[Index, set[Path]]:
    """Read a split, write its rows to ``sink``, which is the file ``store``, and say what its index was made from."""
    listing = reader.list_sequences(folder, split)
    watched, frames, missing_frames = set(listing.watched), list[tuple[str, Any]](), 0
    names, problems = list[str](), list[str]()
    owners, lengths, visible = list[int](), list[int](), list[int]()
    items = _read_all(reader, folder, listing.candidates)
    bar = tqdm(items, f"indexing {reader.title} {split}", len(listing.candidates), disable=None, leave=False)
    for candidate, item in bar:
        if isinstance(item, UserError):
            problems.append(str(item))
            continue
        rows = item_rows(item)
        sink.write(rows.tobytes())
        where = Path(os.path.relpath(item.folder, folder)).as_posix()
        frames.append((where, len(rows) if item.frame_names is None else encode_names(item.frame_names)))
        missing_frames += int((~rows["exists"]).sum())
        watched.update(item.watched)
        usable = visible_rows(rows)
        if reader.stills:
            owners += [len(frames) - 1] * len(rows)
            lengths += [1] * len(rows)
            visible += usable.astype(int).tolist()
        else:
            names.append(candidate.name)
            lengths.append(len(rows))
            visible.append(int(usable.sum()))
    index = Index(
        folder=folder,
        frames=frames,
        videos=any(isinstance(what, int) for _, what in frames),
        names=None if reader.stills else names,
        owners=np.array(owners, np.int64) if reader.stills else None,
        starts=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        visible=np.array(visible, np.int64),
        missing=listing.missing,
        missing_frames=missing_frames,
        problems=tuple(problems),
        rows=store if store is not None else np.frombuffer(sink.getvalue(), ROW),  # type: ignore[attr-defined]
    )
    return index, watched


def _stamp(path: Path | str) -> tuple[int, int]:
    """Modification time and, for a file, size. (0, 0) for what is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return 0, 0
    return status.st_mtime_ns, 0 if stat.S_ISDIR(status.st_mode) else status.st_size


def content_stamp(folder: Path) -> str:
    """A digest of the names and modification times directly in a folder, the same under every mount point."""
    try:
        with os.scandir(folder) as entries:
            content = sorted((entry.name, entry.stat().st_mtime_ns) for entry in entries)
    except OSError as error:
        raise UserError(f"cannot list {folder} ({error.strerror}): check the data root") from error
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def load_index(
    reader: Reader, folder: Path, split: str, cache_dir: Place | None = None, *, trust: bool = False
) -> Index:
    """The index of one split: the cached one if nothing has changed since, else a new one.

    Of several processes that need a new one, one makes it while the others wait. Where the cache folder cannot be
    written, the index is made again at each start, with a warning in the log. ``trust`` takes the cached index without
    looking for changes below the folders directly in ``folder``.

    Raises:
        UserError: the split is not there at all. Single broken sequences are listed in ``Index.problems``.
    """
    if split not in reader.splits:
        raise UserError(f"{reader.title} has no split {split!r}: choose one of {', '.join(reader.splits)}")
    folder = folder.resolve()
    cache = cache_folder(cache_dir)
    key = hashlib.sha256(f"{VERSION}|{reader.name}|{split}|{content_stamp(folder)}".encode()).hexdigest()[:12]
    path = cache / f"{reader.name}-{split}-{key}.json"
    cached = read_index(path, folder, trust=trust)
    if cached is not None:
        return cached
    try:
        writable = os.access(make_folder(cache), os.W_OK)
    except UserError:
        writable = False
    if not writable:
        log.warning(
            "cannot write to %s, so %s is indexed at each start: set VIL_CACHE to a folder that can be",
            cache,
            reader.title,
        )
        return _scan(reader, folder, split, io.BytesIO(), None)[0]
    began = time.time()
    with FileLock(path.with_suffix(".lock")):
        # Made by another process meanwhile: as good as checked.
        cached = read_index(path, folder, trust=path.is_file() and path.stat().st_mtime >= began)
        return cached if cached is not None else _make_index(reader, folder, split, path)


def _make_index(reader: Reader, folder: Path, split: str, path: Path) -> Index:
    rows = path.with_name(f"{path.stem}-{secrets.token_hex(4)}.{_ROWS}")
    with atomic_write(rows) as sink:
        index, watched = _scan(reader, folder, split, sink, rows)
    if not index.problems:  # a broken file may be mended in place: look again next time
        _write_index(path, index, watched)
    _remove_old(path, rows)
    return index


def _write_index(path: Path, index: Index, watched: set[Path]) -> None:
    assert isinstance(index.rows, Path)
    lines = [json.dumps(entry, separators=(",", ":")).encode() + b"\n" for entry in index.frames]
    with atomic_write(index.rows.with_suffix(f".{_LINES}")) as stream:
        stream.writelines(lines)
    ends = np.cumsum([len(line) for line in lines], dtype=np.int64)
    columns = [ends, index.starts, index.visible, *([] if index.owners is None else [index.owners])]
    with atomic_write(index.rows.with_suffix(f".{_COLUMNS}")) as stream:
        stream.writelines(column.astype(np.int64).tobytes() for column in columns)
    stamps = [[Path(os.path.relpath(entry, index.folder)).as_posix(), *_stamp(entry)] for entry in sorted(watched)]
    with atomic_write(index.rows.with_suffix(f".{_WATCHED}"), "w") as stream:
        json.dump(stamps, stream, separators=(",", ":"))
    content = {
        "version": VERSION,
        "rows": index.rows.name,
        "lengths": [len(column) for column in columns],
        **{name: getattr(index, name) for name in ("videos", "names", "missing", "missing_frames")},
    }
    with atomic_write(path, "w") as stream:
        json.dump(content, stream, separators=(",", ":"))


def read_index(path: Path, folder: Path, *, trust: bool = False) -> Index | None:
    """The cached index in the JSON file ``path``, or None if there is none, it is damaged, or what it was made from has
    changed, which is not looked for with ``trust``.
    """
    try:
        content = json.loads(path.read_bytes())
        if content["version"] != VERSION:
            return None
        rows = path.with_name(Path(content["rows"]).name)
        lengths = [int(length) for length in content["lengths"]]
        columns = np.fromfile(rows.with_suffix(f".{_COLUMNS}"), np.int64)
        if len(columns) != sum(lengths):
            return None
        ends, starts, visible, *owners = np.split(columns, np.cumsum(lengths)[:-1])
        lines = rows.with_suffix(f".{_LINES}")
        if rows.stat().st_size != starts[-1] * ROW.itemsize or lines.stat().st_size != (ends[-1] if len(ends) else 0):
            return None
        stamps = () if trust else json.loads(rows.with_suffix(f".{_WATCHED}").read_bytes())
        if any(_stamp(f"{folder}/{entry}") != (mtime, size) for entry, mtime, size in stamps):
            return None
        return Index(
            folder=folder,
            frames=JsonLines(lines, ends),
            videos=bool(content["videos"]),
            names=content["names"],
            owners=owners[0] if owners else None,
            starts=starts,
            visible=visible,
            missing=tuple(content["missing"]),
            missing_frames=int(content["missing_frames"]),
            problems=(),
            rows=rows,
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError):
        return None


def _remove_old(path: Path, keep: Path) -> None:
    """Delete the files of earlier scans. Those of the last day stay: another process may have just mapped them."""
    for old in path.parent.glob(f"{path.stem}-*.*"):
        try:
            if old.stem != keep.stem and time.time() - old.stat().st_mtime > 86_400:
                old.unlink()
        except OSError:
            continue  # in use elsewhere, or gone already
