"""Which targets to follow: boxes typed, read from a file, or drawn with the mouse; and the window of ``--show``."""

from __future__ import annotations

import csv
import io
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np

from vil_tracker.boxes import parse_box
from vil_tracker.data.sequence import read_boxes_file
from vil_tracker.errors import UserError, reason
from vil_tracker.io.draw import draw_results
from vil_tracker.results import Result

log = logging.getLogger(__name__)

_COLUMNS = ("frame", "id", "x", "y", "w", "h")
MAX_TARGETS = 64  # more than that is a ground-truth file given by mistake


@dataclass(frozen=True)
class Target:
    """One target to follow.

    Attributes:
        number: its id in the outputs, from 1.
        box: (4,) float64 xywh in pixels.
        frame: the frame on which the box was drawn; None for the first frame that is tracked.
    """

    number: int
    box: np.ndarray
    frame: int | None = None


def targets_from_boxes(boxes: Sequence[np.ndarray]) -> list[Target]:
    """Number boxes from 1; all begin at the first frame."""
    return [Target(number, box) for number, box in enumerate(boxes, start=1)]


def parse_correction(text: str) -> Target:
    """Read ``"FRAME:x,y,w,h"`` or ``"ID@FRAME:x,y,w,h"`` as typed on a command line; without an id, target 1.

    Raises:
        UserError: it is neither.
    """
    match = re.fullmatch(r"\s*(?:(\d{1,9})@)?(\d{1,9}):(.+)", text)
    if match is None:
        raise UserError(f"--correct {text!r} is no frame and box: write FRAME:x,y,w,h or ID@FRAME:x,y,w,h")
    number, frame, box = match.groups()
    return Target(int(number or 1), parse_box(box), int(frame))


def read_targets(path: str | os.PathLike[str], start: int = 0) -> list[Target]:
    """Read targets from a file.

    Either one ``x,y,w,h`` per line, all on the first frame; or a table with a header that names ``frame,id,x,y,w,h``
    (more columns are ignored), such as a ``boxes.csv`` written before, of which each id's first row from frame
    ``start`` on counts on which the target is not lost. Semicolons and tabs separate as well, with decimal commas.

    Raises:
        UserError: the file cannot be read, holds no box, too many, or for a target none from ``start`` on.
    """
    path = Path(path)
    text = _read_text(path)
    if "frame" in text[:200].lower():
        targets = _read_table(path, text, start)
    else:
        targets = targets_from_boxes(list(read_boxes_file(path)))
    if not targets:
        raise UserError(f"box file {path} holds no box: write one x,y,w,h per line")
    if len(targets) > MAX_TARGETS:
        raise UserError(
            f"box file {path} holds {len(targets)} targets, over the limit of {MAX_TARGETS}: one line is one target "
            "(of a ground-truth file, give the first line as --box)"
        )
    return targets


def _read_text(path: Path) -> str:
    """A text file as spreadsheets write it: UTF-8, or UTF-16 with its mark."""
    try:
        data = path.read_bytes()
        return data.decode("utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read box file {path} ({reason(error)}): check the path") from error


def _read_table(path: Path, text: str, start: int) -> list[Target]:
    lines = io.StringIO(text, newline="")
    if re.match(r"sep=.\r?\n", text):  # a line for Excel
        lines.readline()
    place = lines.tell()
    header = lines.readline()
    lines.seek(place)
    delimiter = max(",;\t", key=header.count)
    targets: dict[int, Target] = {}

    def rank(frame: int) -> tuple[bool, int]:
        return (False, frame) if frame >= start else (True, -frame)

    table = csv.DictReader(lines, strict=True, skipinitialspace=True, delimiter=delimiter)
    try:
        table.fieldnames = [name.strip().lower() for name in table.fieldnames or ()]
        missing = set(_COLUMNS) - set(table.fieldnames)
        if missing:
            raise UserError(f"box file {path}: column {sorted(missing)[0]} is missing; needed are frame,id,x,y,w,h")
        for row in table:
            values = [float(row[key] if delimiter == "," else row[key].replace(",", ".")) for key in _COLUMNS]
            frame, number = (_whole(value) for value in values[:2])
            if frame < 0 or number < 1:
                raise ValueError(f"frame {frame}, id {number}: frames start at 0, ids at 1")
            if row.get("state") != "lost" and (number not in targets or rank(frame) < rank(targets[number].frame or 0)):
                targets[number] = Target(number, np.array(values[2:]), frame)
            if len(targets) > MAX_TARGETS:
                break
    except (ValueError, TypeError, AttributeError, OverflowError, csv.Error) as error:
        raise UserError(
            f"box file {path}, line {table.line_num} is no row of numbers ({error}): write frame,id,x,y,w,h"
        ) from error
    early = [target for _, target in sorted(targets.items()) if (target.frame or 0) < start]
    for target in early:
        fault = f"the last box of target {target.number} is for frame {target.frame}, but tracking begins at {start}"
        if len(early) == len(targets):
            raise UserError(f"box file {path}: {fault}: start there, or give a box for frame {start}")
        log.warning("%s: it is left out", fault)
    return [target for _, target in sorted(targets.items()) if target not in early]


def _whole(value: float) -> int:
    if value != int(value):
        raise ValueError(f"{value} is no whole number")
    return int(value)


class Window(Protocol):
    """A place to show pictures and hear keys; OpenCV's in practice, a script of keys in tests."""

    def show(self, image: np.ndarray) -> None: ...

    def key(self, milliseconds: int) -> str:
        """Wait for a key at most that long; "" if none came, "q" if the window was closed."""

    def select(self, image: np.ndarray, hint: str) -> np.ndarray | None:
        """Let the user draw a box; (4,) float64 xywh, or None if he cancelled."""

    def close(self) -> None: ...


class OpenCVWindow:
    """A window of the desktop.

    Raises:
        UserError: there is no display, or this OpenCV was built without windows.
    """

    def __init__(self, title: str = "ViL-Tracker") -> None:
        _check_display()
        self._title = title
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        self._sized = False

    def _fit(self, image: np.ndarray) -> None:
        if not self._sized:  # a 4K frame would not fit on most desktops
            scale = min(1.0, 1280 / image.shape[1], 800 / image.shape[0])
            cv2.resizeWindow(self._title, max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
            self._sized = True

    def show(self, image: np.ndarray) -> None:
        cv2.imshow(self._title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self._fit(image)

    def key(self, milliseconds: int) -> str:
        code = cv2.waitKey(max(1, milliseconds)) & 0xFF
        if cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1:
            return "q"
        return "" if code == 0xFF else "q" if code == 27 else chr(code).lower()

    def select(self, image: np.ndarray, hint: str) -> np.ndarray | None:
        print(hint, file=sys.stderr)
        self.show(image)
        box = cv2.selectROI(self._title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR), False, False, False)
        return np.array(box, np.float64) if box[2] > 0 and box[3] > 0 else None

    def close(self) -> None:
        cv2.destroyWindow(self._title)


def _check_display() -> None:
    """Find out in another process whether windows work: where they do not, Qt ends the whole process."""
    cure = "run on a desktop, or leave --show and --select out and give --box"
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UserError(f"there is no display to open a window on: {cure}")
    probe = "import cv2; cv2.namedWindow('probe'); cv2.destroyAllWindows()"
    try:
        result = subprocess.run([sys.executable, "-c", probe], capture_output=True, timeout=30)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"the display does not answer: {cure}") from error
    if result.returncode != 0:
        if b"not implemented" in result.stderr:
            raise UserError(
                "this OpenCV has no windows (opencv-python-headless): pip install opencv-python, or give --box"
            )
        raise UserError(f"no window can be opened on this display: {cure}")


def select_targets(window: Window, image: np.ndarray) -> list[Target]:
    """Let the user draw the targets on a frame, one after another.

    Raises:
        UserError: none was drawn.
    """
    boxes: list[np.ndarray] = []
    while len(boxes) < MAX_TARGETS:
        hint = "Draw a box around a target and press Enter; press c without a box to "
        drawn = {number: Result(box, 1.0) for number, box in enumerate(boxes, start=1)}
        box = window.select(draw_results(image, drawn), hint + ("start." if boxes else "give up."))
        if box is None:
            break
        boxes.append(box)
    if not boxes:
        raise UserError("no target was drawn: draw a box with the mouse and press Enter, or give --box x,y,w,h")
    return targets_from_boxes(boxes)


Action = Literal["next", "select", "quit"]


class Viewer:
    """Shows results as they come and takes the keys of ``--show``.

    space: pause and go on; s or .: pause, one frame on; 1 to 9: choose a target; r: draw the chosen target's box anew;
    q or Esc: stop (the files are completed).

    Args:
        window: where to show.
        fps: pictures are not shown faster than this.
    """

    KEYS = "space pause · s step · 1-9 choose a target · r draw its box anew · q quit"

    def __init__(self, window: Window, fps: float) -> None:
        self._window, self._period = window, 1.0 / fps
        self._paused = False
        self._due = 0.0
        self.chosen = 1

    def show(self, image: np.ndarray, results: Mapping[int, Result]) -> Action:
        """Show one frame; returns when the next one is due, or what the user asked for."""
        self._window.show(draw_results(image, results))
        now = time.monotonic()
        self._due = max(self._due + self._period, now)
        while True:
            remaining = self._due - time.monotonic()
            key = self._window.key(50 if self._paused else int(1000 * remaining))
            if key == "q":
                return "quit"
            if key == "r":
                return "select"
            if key == " ":
                self._paused = not self._paused
            elif key in ("s", "."):
                self._paused = True
                return "next"
            elif key.isdigit() and int(key) in results:
                self.chosen = int(key)
            if not self._paused and time.monotonic() >= self._due:
                return "next"

    def select(self, image: np.ndarray) -> np.ndarray | None:
        """Let the user draw the box of target :attr:`chosen` anew; None if he cancelled."""
        self._paused = True  # look at the correction before going on
        return self._window.select(image, f"Draw target {self.chosen} anew and press Enter; press c to leave it.")

    def close(self) -> None:
        self._window.close()
