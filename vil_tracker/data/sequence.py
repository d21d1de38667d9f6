"""A video with its boxes: the one interface between data sets and everything that uses them."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from vil_tracker.errors import UserError, read_text
from vil_tracker.images import ValueRange, read_image, sample_pictures
from vil_tracker.videos import VideoReader, count_frames


class Frames(Protocol):
    """Frames decoded when asked for, or in memory as a list: ``frames[i]`` is (H, W, 3) uint8 RGB."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> np.ndarray: ...


@dataclass(frozen=True)
class ImageFrames:
    """Frames stored as one image file each."""

    paths: tuple[Path, ...]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> np.ndarray:
        return read_image(self.paths[index], self._values)

    @functools.cached_property
    def _values(self) -> ValueRange:
        return ValueRange(samples=functools.partial(sample_pictures, self.paths))


class VideoFrames:
    """Frames of a video file. Reading in order decodes each frame once; going back starts again from the first.

    The file is opened at the first access and again in each process that the object is sent to.
    """

    def __init__(self, path: str | os.PathLike[str], length: int | None = None) -> None:
        self.path = Path(path)
        self._length = length
        self._reader: VideoReader | None = None
        self._last: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        if self._length is None:
            self._length = count_frames(self.path)
        return self._length

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self._last is None or self._last[0] != index:
            if self._reader is None:
                self._reader = VideoReader(self.path)
            self._reader.seek(index)
            frame = self._reader.read()
            if frame is None:
                raise UserError(f"video {self.path} ends before frame {index}: it is damaged or its box file is longer")
            self._last = (index, frame)
        return self._last[1]

    def __getstate__(self) -> dict[str, object]:
        return {"path": self.path, "_length": self._length, "_reader": None, "_last": None}


@dataclass(frozen=True)
class LaterFrames:
    """The frames of a video from number ``first`` on."""

    frames: Frames
    first: int

    def __len__(self) -> int:
        return max(len(self.frames) - self.first, 0)

    def __getitem__(self, index: int) -> np.ndarray:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.frames[self.first + index]


@dataclass(frozen=True)
class Sequence:
    """One target in one video.

    Attributes:
        name: unique within its data set.
        dataset: the data set's short name, such as ``"lasot"``.
        frames: N frames, decoded when asked for.
        boxes: (N, 4) float64 xywh in pixels; a row of NaN where there is no annotation.
        visible: (N,) bool; False where the frame must not serve as template or target (occluded, absent, empty box).
        absent: (N,) bool; True where the target is known to be out of the frame.
        cover: (N,) float, the share of the target that is visible, in [0, 1]; 1 where unknown.
        attributes: challenge attributes of the benchmark, such as ``"Scale Variation"``.
        cut: (N,) bool, True where the frame's edge cuts the target; None where the data set does not say.
    """

    name: str
    dataset: str
    frames: Frames
    boxes: np.ndarray
    visible: np.ndarray
    absent: np.ndarray
    cover: np.ndarray
    attributes: tuple[str, ...] = ()
    cut: np.ndarray | None = None

    def __post_init__(self) -> None:
        n = len(self.boxes)
        shapes = {"boxes": (n, 4), "visible": (n,), "absent": (n,), "cover": (n,)}
        for field, shape in shapes.items():
            if getattr(self, field).shape != shape:
                raise UserError(
                    f"sequence {self.name}: {field} has shape {getattr(self, field).shape}, expected {shape}"
                )

    def __len__(self) -> int:
        return len(self.boxes)

    def from_frame(self, first: int) -> Sequence:
        """The sequence from frame ``first`` on, named ``NAME@first``."""
        rows = {name: getattr(self, name)[first:] for name in ("boxes", "visible", "absent", "cover")}
        cut = None if self.cut is None else self.cut[first:]
        return replace(self, name=f"{self.name}@{first}", frames=LaterFrames(self.frames, first), cut=cut, **rows)

    @functools.cached_property
    def size(self) -> tuple[int, int] | None:
        """Width and height of the first frame, which is decoded for it, in pixels; None without frames."""
        return self.frames[0].shape[1::-1] if len(self.frames) else None  # type: ignore[return-value]


def make_sequence(
    name: str,
    dataset: str,
    frames: Frames,
    boxes: np.ndarray,
    *,
    absent: np.ndarray | None = None,
    cover: np.ndarray | None = None,
    attributes: tuple[str, ...] = (),
) -> Sequence:
    """Build a :class:`Sequence`, filling in what a data set does not annotate; see :func:`visible_frames`."""
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    n = len(boxes)
    absent = np.zeros(n, bool) if absent is None else np.asarray(absent, bool)
    cover = np.ones(n) if cover is None else np.asarray(cover, np.float64)
    return Sequence(name, dataset, frames, boxes, visible_frames(boxes, absent, cover), absent, cover, attributes)


def visible_frames(boxes: np.ndarray, absent: np.ndarray, cover: np.ndarray) -> np.ndarray:
    """Frames (N,) whose box (N, 4) is finite and has area, whose target is not absent and not wholly covered."""
    with np.errstate(invalid="ignore"):
        has_area = np.isfinite(boxes).all(-1) & (boxes[..., 2:] > 0).all(-1)
    return has_area & ~absent & (cover > 0)


_SEPARATOR = re.compile(r"[,\t; ]+")


def read_boxes_file(path: str | os.PathLike[str]) -> np.ndarray:
    """Read a text file of boxes, one ``x,y,w,h`` per line, as (N, 4) float64.

    Separators may be comma, tab, semicolon or blanks; ``NaN`` is kept; empty lines at the end are ignored. Rows of
    eight numbers (the corners of a polygon) become their bounding box.

    Raises:
        UserError: naming file and line, if a line does not hold four (or eight) numbers.
    """
    return parse_boxes(read_text(path, "box file"), Path(path))


def parse_boxes(text: str, path: Path) -> np.ndarray:
    """As :func:`read_boxes_file`, of the text of the file at ``path``."""
    lines = text.splitlines()
    while lines and not lines[-1].strip():
        lines.pop()
    if lines and all(line.count(",") == 3 for line in lines):  # clean files, at once
        with contextlib.suppress(ValueError):
            values = np.array(",".join(lines).split(","), np.float64).reshape(-1, 4)
            if not np.isinf(values).any():
                return values
    rows = np.empty((len(lines), 4))
    for number, line in enumerate(lines, start=1):
        rows[number - 1] = _parse_row(line, path, number)
    return rows


def _parse_row(line: str, path: Path, number: int) -> np.ndarray:
    try:
        values = np.array([float(token) for token in _SEPARATOR.split(line.strip()) if token])
    except ValueError:
        values = np.empty(0)
    if len(values) == 8:
        x, y = values[0::2], values[1::2]
        return np.array([x.min(), y.min(), x.max() - x.min(), y.max() - y.min()])
    if len(values) != 4 or np.isinf(values).any():
        raise UserError(f"{path}:{number}: expected four numbers x,y,w,h, found {line.strip()[:60]!r}")
    return values
