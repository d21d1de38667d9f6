"""What a source of frames is: the frame, the protocol, and where to begin."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

import numpy as np

from vil_tracker.errors import UserError


@dataclass(frozen=True)
class Frame:
    """One frame of a source.

    Attributes:
        number: zero-based position in the source, whatever the first frame asked for.
        time: seconds from the source's beginning (live sources: from the first frame received).
        image: (H, W, 3) uint8 RGB.
        name: the file that it came from, where there is one.
    """

    number: int
    time: float
    image: np.ndarray
    name: str | None = None


@dataclass(frozen=True)
class Sound:
    """The sound of a source: the video file that holds it, and that file's time of the first frame in seconds."""

    path: str
    origin: float


class Source(Protocol):
    """Frames in order.

    Attributes:
        name: short name for messages and default file names.
        fps: frames per second of the source.
        total: how many frames iterating will give, as far as known beforehand; a video's header may be wrong.
        live: the frames come in real time, and one that is not fetched in time is gone.
        pixel_aspect: width of a frame's pixel divided by its height.
        sound: what is to be heard with it, or None.
    """

    name: str
    fps: float
    total: int | None = None
    live: bool = False
    pixel_aspect: Fraction = Fraction(1)
    sound: Sound | None = None

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None:
        return


@dataclass(frozen=True)
class Start:
    """Where to begin: a frame number, or a time in seconds."""

    frame: int = 0
    seconds: float | None = None

    def index(self, fps: float) -> int:
        """The first frame at or after the time (the tolerance absorbs rounding, as in 0.1 s × 30)."""
        return self.frame if self.seconds is None else math.ceil(self.seconds * fps - 1e-6)


def parse_start(text: str) -> Start:
    """Read ``37`` (frame), ``1.5s``, ``01:02`` or ``00:01:02.5`` (times); UserError where it is neither."""
    if re.fullmatch(r"\d{1,12}", text, re.ASCII):
        return Start(frame=int(text))
    if match := re.fullmatch(r"(\d{1,9}(?:\.\d*)?|\.\d+)s", text, re.ASCII):
        return Start(seconds=float(match[1]))
    if match := re.fullmatch(r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2}(?:\.\d*)?)", text, re.ASCII):
        hours, minutes, seconds = (float(part or 0) for part in match.groups())
        return Start(seconds=3600 * hours + 60 * minutes + seconds)
    raise UserError(f"start {text!r} is neither a frame nor a time: write 120 (frame), 1.5s or 00:01:02")


def beyond_the_end(name: str, start: int, count: int) -> UserError:
    """The error of a start that no frame has."""
    what = f"has {count} frames (0 to {count - 1})" if count else "has no frames"
    return UserError(f"start {start} lies beyond the end: {name} {what}; give a smaller --start")
