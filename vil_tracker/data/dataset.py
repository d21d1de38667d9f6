"""Data sets as lists of sequences: ``open_dataset("lasot", "train")[0].boxes``."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from collections.abc import Sequence as SequenceABC
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
from tqdm import tqdm

from vil_tracker.data.frame_cache import decoded_video
from vil_tracker.data.index import ROW, Index, Run, decode_names, load_index, visible_rows
from vil_tracker.data.readers import FOLDER_READERS, READERS, Reader
from vil_tracker.data.readers.base import Place
from vil_tracker.data.readers.video_folder import held_out_targets
from vil_tracker.data.root import find_reader, folder_reader
from vil_tracker.data.sequence import Frames, Sequence, VideoFrames
from vil_tracker.errors import UserError
from vil_tracker.images import read_image

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class IndexedFrames:
    """Frames stored as numbered image files, kept as runs of numbers: a long video costs no memory."""

    folder: Path
    runs: tuple[Run, ...]

    def __len__(self) -> int:
        return sum(max(run[4], 1) for run in self.runs)

    def path(self, index: int) -> Path:
        """The file of frame ``index``; IndexError if there is no such frame."""
        if index < 0:
            raise IndexError(index)
        for prefix, width, suffix, first, count in self.runs:
            if index < max(count, 1):
                return self.folder / (f"{prefix}{first + index:0{width}d}{suffix}" if count else prefix)
            index -= max(count, 1)
        raise IndexError(index)

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of all frames."""
        return tuple(self.folder / name for name in decode_names(self.runs))

    def __getitem__(self, index: int) -> np.ndarray:
        return read_image(self.path(index))


class SequenceDataset(SequenceABC[Sequence]):
    """The sequences of one split, made when asked for; cheap to send to loader processes.

    Attributes:
        lengths: (S,) number of frames of each sequence.
        visible_counts: (S,) number of frames that can serve as template or target.
        missing: sequences of the official list that are not on the disk.
        frame_cache: folder with videos as JPEG files; None decodes them again for each sequence that is opened.
    """

    def __init__(self, reader: Reader, split: str, index: Index) -> None:
        self.name, self.split, self.stills = reader.name, split, reader.stills
        self.folder = index.folder
        self.lengths = np.diff(index.starts)
        self.visible_counts = index.visible
        self.missing = index.missing
        self._index = index
        self.frame_cache: Path | None = None
        self._rows: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Sequence: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sequence]: ...
    def __getitem__(self, index: int | slice) -> Sequence | list[Sequence]:
        if isinstance(index, slice):
            return [self._make(i) for i in range(*index.indices(len(self)))]
        position = index + len(self) if index < 0 else index
        if not 0 <= position < len(self):
            raise IndexError(index)
        return self._make(position)

    def named(self, name: str) -> Sequence:
        """The sequence of that name; UserError if there is none."""
        names = self.names
        if name not in names:
            raise UserError(f"{self.name} {self.split} has no sequence {name!r} in {self.folder}")
        return self._make(names.index(name))

    @property
    def names(self) -> list[str]:
        """Names of all sequences, in order."""
        return [self.name_of(i) for i in range(len(self))]

    def name_of(self, index: int) -> str:
        """Name of one sequence; for stills, the picture's name and the target's number in it."""
        if self._index.names is not None:
            return self._index.names[index]
        owner = self._owner(index)
        assert self._index.owners is not None
        first = int(np.searchsorted(self._index.owners, owner))
        return f"{Path(next(decode_names(self._index.frames[owner][1]))).stem}/{index - first + 1}"

    def _owner(self, index: int) -> int:
        return index if self._index.owners is None else int(self._index.owners[index])

    def _make(self, index: int) -> Sequence:
        rows = self._all_rows()[self._index.starts[index] : self._index.starts[index + 1]]
        cut = rows["cut"]
        frames, scale = self._frames(index)
        return Sequence(
            name=self.name_of(index),
            dataset=self.name,
            frames=frames,
            boxes=np.array(rows["box"]) * scale,
            visible=visible_rows(rows),
            absent=np.array(rows["absent"]),
            cover=rows["cover"].astype(np.float64),
            cut=cut == 1 if len(cut) and (cut >= 0).all() else None,
        )

    def decode_videos(self, cache: Path) -> None:
        """Decode every video into ``cache`` once, and read its frames from there from now on; UserError as there."""
        if not self._index.videos:
            return
        videos = sorted({self.folder / where for where, what in self._index.frames if isinstance(what, int)})
        for video in tqdm(videos, desc="decoding videos", unit="video", disable=None, leave=False):
            decoded_video(cache, video)
        self.frame_cache = cache

    def _frames(self, index: int) -> tuple[Frames, float]:
        """The frames of a sequence, and their size relative to the annotated ones."""
        where, what = self._index.frames[self._owner(index)]
        if not isinstance(what, int):
            return IndexedFrames(self.folder / where, tuple(tuple(run) for run in what)), 1.0
        if self.frame_cache is None:
            return VideoFrames(self.folder / where, what), 1.0
        folder, scale = decoded_video(self.frame_cache, self.folder / where)
        return IndexedFrames(folder, (("", 6, ".jpg", 1, what),)), scale

    def _all_rows(self) -> np.ndarray:
        if self._rows is None:
            rows = self._index.rows
            if isinstance(rows, Path):
                empty = rows.stat().st_size == 0
                rows = np.zeros(0, ROW) if empty else np.memmap(rows, ROW, mode="r")
            self._rows = rows
        return self._rows

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_rows": None}  # each process maps the row file itself


def open_dataset(
    name: str,
    split: str = "train",
    *,
    data_root: Place | None = None,
    cache_dir: Place | None = None,
    trust: bool = False,
    places: Mapping[str, list[Path]] | None = None,
) -> SequenceDataset:
    """Find a data set below the data root and open one of its splits.

    Args:
        name: a data set of ``vil_tracker.data.readers.READERS``, such as ``"lasot"``, or ``"folder:PATH"`` for data of
            one's own; a ``split`` that it does not have is then ignored.
        data_root: VIL_DATA where left out.
        cache_dir: where the index is kept; the user's cache folder where left out.
        trust: do not look for changes since the index was made.
        places: what :func:`vil_tracker.data.root.find_all` found below the root, where several data sets are opened.

    Raises:
        UserError: not found, no such split, no sequences, or broken files (file and line are named).
    """
    reader, folder = find_reader(name, data_root, places)
    own = name.startswith("folder:") and split not in reader.splits
    return _open(reader, folder, reader.splits[0] if own else split, cache_dir, trust)


def open_folder(path: Place, *, split: str = "", cache_dir: Place | None = None) -> SequenceDataset:
    """Open a folder by its layout, without a data root: sequences, videos or pictures of one's own, or an official data
    set. Of several splits the first one where left out. Errors as :func:`open_dataset`.
    """
    folder = Path(path)
    reader = folder_reader(folder)
    return _open(reader, folder, split or reader.splits[0], cache_dir)


def open_split(
    text: str, *, data_root: Place | None = None, cache_dir: Place | None = None, trust: bool = False
) -> SequenceDataset:
    """Open a data set by name and split: ``"lasot:test"``, ``"folder:PATH"`` or ``"folder:PATH:SPLIT"``. The split may
    be left out where there is only one. Other arguments and errors as for :func:`open_dataset`.
    """
    if text.partition(":")[0] not in (*READERS, "folder"):
        log.warning("%s: write folder:%s; a bare path is read for one more version", text, text)
        text = f"folder:{text}"
    name, _, split = text.partition(":")
    if name == "folder":
        path, _, last = split.rpartition(":")
        every = {word for reader in (*FOLDER_READERS.values(), *READERS.values()) for word in reader.splits}
        name, split = (f"folder:{path}", last) if path and last in every else (text, "")
    reader, folder = find_reader(name, data_root)
    splits = reader.splits
    if reader.name in FOLDER_READERS and not held_out_targets(folder):
        splits = reader.splits[:1]
    if not split and len(splits) > 1:
        raise UserError(f"{text} is {reader.title}: name one of its splits, {', '.join(f'{name}:{s}' for s in splits)}")
    return _open(reader, folder, split or splits[0], cache_dir, trust)


def _open(reader: Reader, folder: Path, split: str, cache_dir: Place | None, trust: bool = False) -> SequenceDataset:
    index = load_index(reader, folder, split, cache_dir, trust=trust)
    if index.problems:
        more = len(index.problems) - 1
        rest = f" (and {more} more: vil-tracker doctor --scan lists them)" if more else ""
        raise UserError(f"{index.problems[0]}{rest}")
    dataset = SequenceDataset(reader, split, index)
    if not len(dataset):
        raise UserError(f"{reader.title} {split} in {folder} has no sequences: vil-tracker doctor shows the layout")
    return dataset
