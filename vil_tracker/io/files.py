"""Sources: whatever a person has a target in, as a stream of frames with their number and time.

``open_source`` understands a video file, an image folder, a glob of images, one image or animation, ``-`` (images on
standard input), a webcam's index and a stream's address. Webcams and streams live in :mod:`vil_tracker.io.live`,
pictures in :mod:`vil_tracker.io.image_files` and :mod:`vil_tracker.io.animations`.
"""

from __future__ import annotations

import glob
import io
import os
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from vil_tracker.errors import UserError
from vil_tracker.images import IMAGE_EXTENSIONS, MAX_PIXELS, Range, ValueRange, decode_image
from vil_tracker.io.animations import AnimationSource, find_pictures
from vil_tracker.io.image_files import IMAGE_FPS, ImageSource, images_in, images_matching
from vil_tracker.io.image_pipe import split_images
from vil_tracker.io.source import Frame, Sound, Source, Start, beyond_the_end
from vil_tracker.videos import VideoReader


def open_source(
    source: str | os.PathLike[str],
    *,
    start: Start | None = None,
    stride: int = 1,
    fps: float | None = None,
    stream_timeout: float = 10.0,
    max_pixels: int = MAX_PIXELS,
    value_range: Range | None = None,
) -> Source:
    """Open what ``source`` names.

    Args:
        source: video file, image folder, glob, image file, ``-``, webcam index, or an address with ``://``.
        start: the first frame to give (not for live sources).
        stride: give every stride-th frame.
        fps: frames per second of images, which carry none (not for videos, which do).
        stream_timeout: seconds without a frame after which a live source counts as ended.
        max_pixels: a video with larger frames is refused.
        value_range: values of pictures that become black and white; None takes the sequence's own range where they
            have more than 8 bits.

    Raises:
        UserError: it does not exist, cannot be read, or the start lies beyond its end.
    """
    text, path = os.fspath(source), Path(source)
    start = start or Start()
    if stride < 1:
        raise UserError(f"stride {stride} is below 1: give 1 for every frame, 2 for every second one")
    if fps is not None and not 0.01 < fps < 10_000:
        raise UserError(f"{fps:g} frames per second is out of range: give a number such as 25 or 29.97")
    exists = bool(text) and os.path.exists(path)  # False, too, for a name that no file can have
    pictures: dict[str, Any] = {"start": start, "stride": stride, "fps": fps or IMAGE_FPS, "value_range": value_range}
    if text == "-":
        return StdinSource(**pictures)
    if exists and path.is_dir():
        return ImageSource(images_in(path), path.resolve().name, **pictures)
    if not exists and glob.has_magic(text) and "://" not in text:
        return ImageSource(images_matching(text), "images", **pictures)
    if exists and path.suffix.lower() in IMAGE_EXTENSIONS:
        positions = find_pictures(path)
        if len(positions) > 1:
            return AnimationSource(path, positions, **{**pictures, "fps": fps})
        return ImageSource((path,), path.stem, **pictures)
    if fps is not None:
        raise UserError("--fps is for images, which carry no frame rate; leave it out for a video or a camera")
    if value_range is not None:
        raise UserError("--range is for images of more than 8 bits; leave it out for a video or a camera")
    if "://" in text or (re.fullmatch(r"\d{1,3}", text, re.ASCII) and not exists):
        from vil_tracker.io.live import LiveSource

        if start != Start():
            raise UserError(
                f"{text} is read as it comes and cannot begin later: leave --start out, or download the video first"
            )
        return LiveSource(int(text) if text.isdigit() else text, stride=stride, timeout=stream_timeout)
    if not exists:
        shown = text[:300] or "the empty name"
        raise UserError(
            f"{shown} does not exist: give a video file, an image folder, a glob in quotes, a webcam index, an address "
            "such as rtsp://…, or - for images on standard input"
        )
    return VideoSource(path, start=start, stride=stride, max_pixels=max_pixels)


class VideoSource(Source):
    """A video file, to be read once from the start that was asked for."""

    def __init__(self, path: Path, *, start: Start, stride: int, max_pixels: int) -> None:
        self.name = path.stem
        self._path, self._start, self._stride = path, start, stride
        self._lock = threading.Lock()  # closing must wait for a read in another thread
        self._reader = VideoReader(path, max_pixels=max_pixels)
        self.fps, self.pixel_aspect = self._reader.fps, self._reader.pixel_aspect
        self.sound = Sound(str(path), self._reader.origin) if self._reader.has_sound else None
        claimed = max((self._reader.frames_claimed or 0) - self._start.index(self.fps), 0)
        self.total = -(-claimed // stride) or None

    def __iter__(self) -> Iterator[Frame]:
        number = 0
        while not self._reached(number):
            number += self._skip(1)
            if self._reader.next_time is None:
                self._raise_empty(number)
        while (image := self._read()) is not None:
            yield Frame(number, self._reader.time, image)
            number += 1 + self._skip(self._stride - 1)
        if number == 0:
            self._raise_empty(number)

    def _reached(self, number: int) -> bool:
        """Whether the next frame is the first one to give: half a millisecond absorbs rounded times."""
        if self._start.seconds is None:
            return number >= self._start.frame
        with self._lock:
            time = self._reader.next_time
        return time is None or time >= self._start.seconds - 5e-4

    def _read(self) -> np.ndarray | None:
        with self._lock:
            return self._reader.read()

    def _skip(self, count: int) -> int:
        """Pass over frames; returns how many there were."""
        for passed in range(count):
            with self._lock:  # one by one, so that closing need not wait for a long way to go
                if not self._reader.skip():
                    return passed
        return count

    def _raise_empty(self, count: int) -> NoReturn:
        if count == 0:
            raise UserError(
                f"video {self._path} holds no frame that can be decoded, it is damaged or empty: "
                "see whether a player shows it"
            )
        start = self._start.frame if self._start.seconds is None else f"{self._start.seconds:g} s"
        raise UserError(
            f"start {start} lies beyond the end: {self._path} has {count} frames, the last one at "
            f"{self._reader.time:.2f} s; give a smaller --start"
        )

    def close(self) -> None:
        with self._lock:
            self._reader.close()


class StdinSource(Source):
    """Images one after another on standard input (JPEG or PNG), as ``ffmpeg -f image2pipe`` writes them."""

    name = "stdin"

    def __init__(
        self,
        stream: io.RawIOBase | None = None,
        *,
        start: Start | None = None,
        stride: int = 1,
        fps: float = IMAGE_FPS,
        value_range: Range | None = None,
    ) -> None:
        if stream is None:
            if sys.stdin is None or sys.stdin.isatty():
                raise UserError(
                    "- reads images from standard input, but nothing is piped into it: pipe JPEG or PNG images"
                )
            # Unbuffered: a thread that waits in a buffered read would hold a lock that stops the interpreter's exit.
            stream = io.FileIO(sys.stdin.fileno(), closefd=False)
        self._stream, self._stride, self.fps = stream, stride, fps
        self._first = (start or Start()).index(fps)
        self._values = ValueRange(value_range, name="standard input")

    def __iter__(self) -> Iterator[Frame]:
        number = -1
        for number, data in enumerate(split_images(self._stream)):
            if number >= self._first and (number - self._first) % self._stride == 0:
                yield Frame(number, number / self.fps, decode_image(data, f"{number} on standard input", self._values))
        if number < 0:
            raise UserError("standard input holds no image: pipe JPEG or PNG images into it")
        if number < self._first:
            raise beyond_the_end("standard input", self._first, number + 1)
