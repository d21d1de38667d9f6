"""What every data set reader offers, and the file chores that they share.

A reader knows one layout: how to recognise its folder, which sequences a split has, and how to read one of them. It
never decodes a picture; :mod:`vil_tracker.data.index` turns what it reads into a cached index.
"""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from pathlib import Path
from typing import ClassVar

import numpy as np

from vil_tracker.data.sequence import read_boxes_file
from vil_tracker.errors import UserError, read_text
from vil_tracker.images import IMAGE_EXTENSIONS, natural_key
from vil_tracker.packed import ARCHIVE, packed_names

Place = str | os.PathLike[str]  # a folder as callers give it


@dataclass(frozen=True)
class Candidate:
    """A sequence that a split lists; ``path`` is where it lies (a folder, or a video or picture file)."""

    name: str
    path: Path


@dataclass(frozen=True)
class Listing:
    """The sequences of one split.

    Attributes:
        candidates: those on the disk, in the split's order.
        missing: names that the official list has and the disk has not.
        watched: folders and files whose change means that the listing is out of date.
    """

    candidates: tuple[Candidate, ...]
    missing: tuple[str, ...] = ()
    watched: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Item:
    """One sequence as read from its files, frames not decoded.

    Attributes:
        folder: where the frames lie, or the video file itself.
        frame_names: file names of the N frames inside ``folder``; None for a video.
        boxes: (N, 4) float64 xywh in pixels, NaN where not annotated. For a picture with several targets, (K, 4) with
            one frame name: each row becomes a sequence of its own.
        absent: (N,) bool, None where the data set does not say.
        cover: (N,) visible share in [0, 1], None where the data set does not say.
        cut: (N,) bool, the frame's edge cuts the target; None where the data set does not say.
        exists: (N,) bool, False where a frame's file is missing; None for "all there".
        attributes: challenge attributes.
        watched: files and folders whose change makes the cached index stale.
    """

    folder: Path
    frame_names: Sequence[str] | None
    boxes: np.ndarray
    absent: np.ndarray | None = None
    cover: np.ndarray | None = None
    cut: np.ndarray | None = None
    exists: np.ndarray | None = None
    attributes: tuple[str, ...] = ()
    watched: tuple[Path, ...] = ()


class Reader(ABC):
    """One data set layout.

    Attributes:
        name: short name used on the command line and in configurations.
        title: name as its authors write it.
        url: where to get it.
        splits: names of the splits; the first is the one for training, if there is one.
        sizes: official number of sequences per split, where there is one.
        layout: the exact layout expected below the data root, as text.
        stills: whether each sequence is one picture.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    url: ClassVar[str] = ""
    splits: ClassVar[tuple[str, ...]]
    sizes: ClassVar[dict[str, int]] = {}
    layout: ClassVar[str]
    stills: ClassVar[bool] = False

    @abstractmethod
    def matches(self, folder: Path) -> bool:
        """Whether ``folder`` has this layout. Looks at a handful of names only, and never at frames."""

    @abstractmethod
    def list_sequences(self, folder: Path, split: str) -> Listing:
        """The sequences of ``split``.

        Raises:
            UserError: the split's folder or list is not there.
        """

    def count(self, folder: Path, split: str) -> tuple[int, tuple[str, ...]]:
        """Number of sequences of a split on the disk, and the missing ones, without reading annotations."""
        listing = self.list_sequences(folder, split)
        return len(listing.candidates), listing.missing

    @abstractmethod
    def read_sequence(self, folder: Path, candidate: Candidate) -> Item:
        """Read one sequence's annotation and list its frames.

        Raises:
            UserError: naming the file, and the line where there is one.
        """

    def names(self, split: str) -> tuple[str, ...] | None:
        """Official sequence names of a split; None where there is no list of them."""
        return None


def subfolders(folder: Path, limit: int | None = None) -> list[Path]:
    """The folders inside ``folder`` (links followed, hidden ones left out), in natural order; at most ``limit``
    directory entries are looked at. A folder that cannot be read counts as empty.
    """
    found: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for number, entry in enumerate(entries):
                if limit is not None and number >= limit:
                    break
                if not entry.name.startswith(".") and entry.is_dir():
                    found.append(entry.name)
    except OSError:
        return []
    return [folder / name for name in sorted(found, key=natural_key)]


def list_pictures(folder: Path) -> list[str]:
    """Names of the pictures in ``folder``, or in its archive, without looking into any of them.

    Raises:
        UserError: there is no such folder, or its archive is damaged.
    """
    try:
        with os.scandir(folder) as entries:
            every = [entry.name for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise UserError(f"cannot list the frames in {folder}: {error.strerror}: check the data set's layout") from error
    pictures = [name for name in every if os.path.splitext(name)[1].lower() in IMAGE_EXTENSIONS]
    return pictures + (packed_names(folder) if ARCHIVE in every else [])


def list_frames(folder: Path) -> list[str]:
    """The names of :func:`list_pictures` in natural order.

    Raises:
        UserError: as :func:`list_pictures`, or there are no pictures.
    """
    names = list_pictures(folder)
    if not names:
        raise UserError(f"{folder} has no pictures: unpack the sequence again")
    return sorted(names, key=natural_key)


_NUMBERED = re.compile(r"^(.*?)(\d+)(\D*)$")


def split_number(name: str) -> tuple[str, str, str] | None:
    """Split ``img00012.jpg`` into ``("img", "00012", ".jpg")``; None if the stem does not end in a number."""
    match = _NUMBERED.match(name)
    return (match[1], match[2], match[3]) if match else None


def numbered_frames(names: Sequence[str], count: int, first: int) -> tuple[list[str], np.ndarray]:
    """The names of frames ``first`` … ``first + count - 1`` and which of them exist.

    A gap in the numbering is a missing frame, so the boxes of the frames after it stay with their pictures. A missing
    frame gets the name that it should have.
    """
    by_number: dict[int, str] = {}
    patterns: Counter[tuple[str, int, str]] = Counter()
    padded = False
    for name in names:
        if (parts := split_number(name)) is not None:
            prefix, digits, suffix = parts
            by_number[int(digits)] = name
            patterns[prefix, len(digits), suffix] += 1
            padded |= len(digits) > 1 and digits[0] == "0"
    prefix, width, suffix = patterns.most_common(1)[0][0] if patterns else ("", 8, ".jpg")
    if len({pattern[1] for pattern in patterns}) > 1 and not padded:
        width = 1  # unpadded numbers: 9.jpg, 10.jpg
    numbers = range(first, first + count)
    wanted = [by_number.get(n, f"{prefix}{n:0{width}d}{suffix}") for n in numbers]
    return wanted, np.fromiter((n in by_number for n in numbers), bool, count)


def match_frames(names: Sequence[str], boxes: np.ndarray, where: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Bring a listing of frames and a box file of unknown numbering together.

    As many boxes as frames: they belong together in order. Fewer boxes: the first frames are annotated, the others
    get NaN. More boxes: the numbering must show which frames are missing.

    Returns:
        frame names, boxes (N, 4) and exists (N,).

    Raises:
        UserError: more boxes than frames, and no numbering that shows which are missing.
    """
    if len(boxes) <= len(names):
        return list(names), pad_boxes(boxes, len(names)), np.ones(len(names), bool)
    first = _first_number(names, len(boxes))
    if first is None:
        raise UserError(f"{where} has {len(boxes)} boxes, but there are {len(names)} frames: one line per frame")
    wanted, exists = numbered_frames(names, len(boxes), first)
    return wanted, boxes, exists


def _first_number(names: Sequence[str], count: int) -> int | None:
    """Number of the first of ``count`` frames of which only ``names`` are left, or None where that is unknown."""
    numbers = [int(parts[1]) for name in names if (parts := split_number(name)) is not None]
    if len(numbers) != len(names) or len(set(numbers)) != len(numbers):
        return None
    low, high = min(numbers), max(numbers)
    if high - low + 1 == count or (low in (0, 1) and high - low < count):  # gaps inside, or the end is missing
        return low
    return high - count + 1 if high in (count, count - 1) else None  # the beginning is missing


def pad_boxes(boxes: np.ndarray, count: int) -> np.ndarray:
    """Append rows of NaN up to ``count`` rows."""
    return np.concatenate([boxes, np.full((count - len(boxes), 4), np.nan)])


def read_boxes(path: Path) -> np.ndarray:
    """(N, 4) float64 boxes of a text file, N at least 1; otherwise as :func:`read_boxes_file`."""
    boxes = read_boxes_file(path)
    if not len(boxes):
        raise UserError(f"{path} is empty: expected one box x,y,w,h per line")
    return boxes


def read_numbers(path: Path, count: int, low: float, high: float) -> np.ndarray:
    """``count`` numbers of a label file, on one line with commas or one per line.

    Raises:
        UserError: unreadable, not numbers, out of [low, high], or not ``count`` of them; names file and line.
    """
    text = read_text(path, "label file")
    try:
        clean = np.array(text.replace(",", " ").split(), np.float64)
        if len(clean) == count and ((clean >= low) & (clean <= high)).all():
            return clean
    except ValueError:
        pass  # the slow way finds the line
    values: list[float] = []
    for number, line in enumerate(text.splitlines(), start=1):
        for token in filter(None, re.split(r"[,;\s]+", line)):
            try:
                value = float(token)
            except ValueError:
                value = np.nan
            if not low <= value <= high:
                raise UserError(f"{path}:{number}: expected a number from {low:g} to {high:g}, found {token[:40]!r}")
            values.append(value)
    if len(values) != count:
        raise UserError(f"{path} has {len(values)} values, but the sequence has {count} frames: unpack it again")
    return np.array(values)


def read_flags(path: Path, count: int) -> np.ndarray | None:
    """Flags 0/1 as bool (count,), or None where the file does not exist; errors as :func:`read_numbers`."""
    return read_numbers(path, count, 0, 1).astype(bool) if path.is_file() else None


def numbered_sequence(truth: Path, images: Path, first: int) -> Item:
    """The sequence of a box file and a folder of frames that are numbered from ``first``; of a single box, that of the
    first frame, the others have none. Errors as :func:`read_boxes` and :func:`list_frames`.
    """
    boxes, names = read_boxes(truth), list_frames(images)
    if len(boxes) == 1:
        boxes = pad_boxes(boxes, len(names))
    frames, exists = numbered_frames(names, len(boxes), first)
    watched = tuple(dict.fromkeys((truth.parent, images, truth)))
    return Item(folder=images, frame_names=frames, boxes=boxes, exists=exists, watched=watched)


def matched_sequence(truth: Path, images: Path) -> Item:
    """The sequence of a box file and a folder of frames, brought together by :func:`match_frames`; errors as there."""
    frames, boxes, exists = match_frames(list_frames(images), read_boxes(truth), truth)
    watched = tuple(dict.fromkeys((truth.parent, images, truth)))
    return Item(folder=images, frame_names=frames, boxes=boxes, exists=exists, watched=watched)


def ranged_sequence(
    truth: Path, boxes: np.ndarray, images: Path, first: int, last: int, attributes: tuple[str, ...]
) -> Item:
    """The sequence of the frames ``first`` to ``last`` with their boxes; UserError unless there are as many of them."""
    if len(boxes) != last - first + 1:
        raise UserError(f"{truth} has {len(boxes)} boxes, but frames {first} to {last} are evaluated: unpack it again")
    frames, exists = numbered_frames(list_frames(images), len(boxes), first)
    watched = tuple(dict.fromkeys((truth.parent, images, truth)))
    return Item(images, frames, boxes, exists=exists, attributes=attributes, watched=watched)


def with_official_absent(item: Item, folder: Path, sequence: Path) -> Item:
    """The item with the absent flags of a toolkit like LaSOT's, where they are there: ``absent/NAME.txt`` below the
    data set or its ``annos``, or ``absent.txt`` beside the boxes. Errors as :func:`read_numbers`.
    """
    name = f"{sequence.name}.txt"
    for path in (sequence / "absent.txt", folder / "absent" / name, folder / "annos" / "absent" / name):
        flags = read_flags(path, len(item.boxes))
        if flags is not None:
            cover = None if item.cover is None else np.where(flags, 0.0, 1.0)
            return replace(item, absent=flags, cover=cover, watched=(*item.watched, path))
    return item


@cache
def read_list(name: str) -> tuple[tuple[str, ...], ...]:
    """The rows of a list shipped with the package, ``vil_tracker/data/splits/<name>.txt``, as tuples of words, without
    its comments and empty lines.
    """
    text = resources.files("vil_tracker.data").joinpath("splits").joinpath(f"{name}.txt").read_text(encoding="utf-8")
    rows = (line.split() for line in text.splitlines() if not line.startswith("#"))
    return tuple(tuple(row) for row in rows if row)


def split_list(name: str) -> tuple[str, ...]:
    """The words of :func:`read_list`."""
    return tuple(word for row in read_list(name) for word in row)


def listing_of(names: Iterable[str], folder_of: dict[str, Path], watched: Iterable[Path]) -> Listing:
    """A listing in the order of ``names``, where ``folder_of`` holds those on the disk."""
    ordered = list(names)
    found = tuple(Candidate(name, folder_of[name]) for name in ordered if name in folder_of)
    return Listing(found, tuple(name for name in ordered if name not in folder_of), tuple(watched))
