"""Files that hold several pictures: animated GIF, PNG, WebP and AVIF, and TIFF files of several pages."""

from __future__ import annotations

import functools
import io
import logging
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from vil_tracker.errors import UserError, reason
from vil_tracker.images import Range, ValueRange, check_pixels, exif_orientation, sample_pictures, to_rgb8, turn
from vil_tracker.io.image_files import IMAGE_FPS
from vil_tracker.io.source import Frame, Source, Start, beyond_the_end

log = logging.getLogger(__name__)

_ANIMATED = ("GIF", "PNG", "WEBP", "AVIF", "TIFF")  # of other formats, further pictures are previews
_DEFAULT_DURATION = 0.1  # seconds; what browsers take where none is said


class AnimationSource(Source):
    """The pictures of one file in turn, each composed as a viewer shows it, at the times that the file says.

    ``pictures`` are their positions, of :func:`find_pictures`; the rest is :func:`vil_tracker.io.files.open_source`'s.
    """

    def __init__(
        self,
        path: Path,
        pictures: list[int],
        *,
        start: Start,
        stride: int,
        fps: float | None,
        value_range: Range | None,
    ) -> None:
        data = path.read_bytes()
        self.name, self._path, self._pictures, self._stride = path.stem, path, pictures, stride
        self._start, self._image = start, Image.open(io.BytesIO(data))
        self._pages = data if self._image.format == "TIFF" else None
        self._rate = fps or (IMAGE_FPS if self._pages else None)  # None: as the file says
        self._values = ValueRange(value_range, functools.partial(sample_pictures, pictures, self._raw), self.name)
        self.fps = self._rate or 1 / self._seek(pictures[0])
        first = self._start.index(self.fps) if self._rate or self._start.seconds is None else 0
        if first >= len(pictures):
            raise beyond_the_end(str(path), first, len(pictures))
        self._first = first
        self.total = -(-(len(pictures) - first) // stride)

    def __iter__(self) -> Iterator[Frame]:
        time, begun, begin = 0.0, None, self._start.seconds
        for number, position in enumerate(self._pictures):
            duration = self._seek(position)
            time = number / self._rate if self._rate else time
            late_enough = number >= self._first and (self._rate or begin is None or time >= begin - 1e-6)
            if begun is None and late_enough:
                begun = number
            if begun is not None and (number - begun) % self._stride == 0:
                yield Frame(number, time, to_rgb8(self._raw(position), self._values))
            time += duration
        if begun is None:
            raise UserError(
                f"start {begin:g} s lies beyond the end: {self._path} lasts {time:.2f} s; give a smaller --start"
            )

    def _seek(self, position: int) -> float:
        """Go to a picture and return for how many seconds it is shown."""
        try:
            self._image.seek(position)
            if self._pages is None:
                self._image.load()  # WebP says the duration only then
        except Exception as error:  # of damaged files, Pillow raises all kinds
            raise self._damaged(position, error) from error
        check_pixels(self._image.width, self._image.height, f"picture {position} of {self._path}")
        seconds = float(self._image.info.get("duration") or 0) / 1000
        return seconds if math.isfinite(seconds) and seconds > 0 else _DEFAULT_DURATION

    def _raw(self, position: int) -> np.ndarray:
        """A picture as OpenCV decodes it."""
        try:
            if self._pages is not None:
                data = np.frombuffer(self._pages, np.uint8)
                done, pages = cv2.imdecodemulti(data, cv2.IMREAD_UNCHANGED, range=(position, position + 1))
                if not done:
                    raise ValueError("it cannot be decoded")
                return pages[0]
            picture = np.asarray(self._image.convert("RGB"))[..., ::-1]
            return turn(picture, exif_orientation(self._image))
        except Exception as error:  # as above, and OpenCV
            raise self._damaged(position, error) from error

    def _damaged(self, position: int, error: BaseException) -> UserError:
        why = "it cannot be decoded" if isinstance(error, cv2.error) else " ".join(reason(error).split())[:120]
        return UserError(f"picture {position} of {self._path} is damaged ({why}): save the file again")

    def close(self) -> None:
        self._image.close()


def find_pictures(path: Path) -> list[int]:
    """Positions of the pictures in an image file; [0] for an ordinary one, or one that cannot be read."""
    known = False
    try:
        with Image.open(path) as opened:
            image: Any = opened
            if image.format not in _ANIMATED:
                return [0]
            known = True
            count = getattr(image, "n_frames", 1)
            if count < 2:
                return [0]
            if image.format == "TIFF":
                return [position for position in range(count) if not _is_preview(image, position)] or [0]
            # What a PNG shows where animations are not understood need not be one of its pictures.
            return list(range(int(getattr(image, "default_image", False)), count))
    except Exception:  # of damaged files, Pillow raises all kinds
        if known:  # else reading it as a picture says what is wrong
            log.warning("%s is damaged: its pictures cannot be counted, and the first one alone is read", path)
        return [0]


def _is_preview(image: Any, position: int) -> bool:
    """Whether a page is a smaller copy of another one or its mask (tag 254, NewSubfileType)."""
    image.seek(position)
    return bool(int(image.tag_v2.get(254, 0)) & 5)
