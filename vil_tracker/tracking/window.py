"""The window in which boxes are drawn with the mouse and results are shown as they come."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Literal

import cv2
import numpy as np

from vil_tracker.errors import UserError
from vil_tracker.io.draw import draw_results, text_image
from vil_tracker.results import Result
from vil_tracker.tracking.select import MAX_TARGETS, Target, targets_from_boxes

_ENTER, _ESCAPE = "\r\n", "\x1b"


def with_text(image: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """A copy of a picture (H, W, 3) with lines of text at its lower left, as large as its width allows."""
    picture = image.copy()
    longest = max(map(len, lines))
    height = int(np.clip(1.6 * image.shape[1] / longest, 8, 22))
    bottom = image.shape[0]
    for line in reversed(lines):
        text = text_image(line, height, (255, 255, 255), (33, 37, 41))[:bottom, : image.shape[1]]
        picture[bottom - text.shape[0] : bottom, : text.shape[1]] = text
        bottom -= text.shape[0]
    return picture


class BoxDrawing:
    """A box that is being drawn: from where the button went down to where the mouse is, or was let go.

    ``box`` is (4,) float64 xywh in pixels of the picture; None before the first drag.
    """

    def __init__(self) -> None:
        self.box: np.ndarray | None = None
        self._from: tuple[int, int] | None = None

    def on_mouse(self, event: int, x: int, y: int, *_: object) -> None:
        if event == cv2.EVENT_LBUTTONDOWN:
            self._from = (x, y)
        if self._from is not None and event in (cv2.EVENT_MOUSEMOVE, cv2.EVENT_LBUTTONUP):
            (x1, y1), (x2, y2) = np.sort([self._from, (x, y)], axis=0)
            self.box = np.array([x1, y1, x2 - x1, y2 - y1], np.float64) if x2 > x1 and y2 > y1 else None
        if event == cv2.EVENT_LBUTTONUP:
            self._from = None


class OpenCVWindow:
    """A window of the desktop; UserError where there is no display, or this OpenCV was built without windows."""

    def __init__(self) -> None:
        _check_display()
        self._title = "ViL-Tracker"
        cv2.namedWindow(self._title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
        self._sized = False

    def show(self, image: np.ndarray) -> None:
        cv2.imshow(self._title, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        if not self._sized:  # a 4K frame would not fit on most desktops
            scale = min(1.0, 1280 / image.shape[1], 800 / image.shape[0])
            cv2.resizeWindow(self._title, max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
            self._sized = True

    def key(self, milliseconds: int) -> str:
        """Wait for a key at most that long; "" if none came, "q" if the window was closed."""
        key = self._press(milliseconds)
        return "q" if key == _ESCAPE else key

    def _press(self, milliseconds: int) -> str:
        code = cv2.waitKey(max(1, milliseconds)) & 0xFF
        if cv2.getWindowProperty(self._title, cv2.WND_PROP_VISIBLE) < 1:
            return _ESCAPE
        return "" if code == 0xFF else chr(code).lower()

    def select(self, image: np.ndarray, hint: str) -> tuple[np.ndarray | None, bool]:
        """Let the user draw a box; (4,) float64 xywh, or None if he did not, and whether he wants to draw another."""
        drawing = BoxDrawing()
        self.show(image)
        cv2.setMouseCallback(self._title, drawing.on_mouse)
        try:
            while True:
                picture = with_text(image, hint.split("\n"))
                if drawing.box is not None:
                    x, y, w, h = drawing.box.astype(int).tolist()
                    thickness = max(1, round(image.shape[1] / 640))
                    cv2.rectangle(picture, (x, y), (x + w, y + h), (255, 255, 255), thickness + 2)
                    cv2.rectangle(picture, (x, y), (x + w, y + h), (0, 120, 255), thickness)
                self.show(picture)
                key = self._press(20)
                if key and key in "cq" + _ESCAPE:
                    return None, False
                if key and key in _ENTER + " ":
                    return drawing.box, key == " " and drawing.box is not None
        finally:
            cv2.setMouseCallback(self._title, lambda *_: None)

    def close(self) -> None:
        cv2.destroyWindow(self._title)


def _check_display() -> None:
    """Find out in another process whether windows work: where they do not, Qt ends the whole process."""
    advice = "run on a desktop, or leave --show and --select out and give --box"
    if sys.platform.startswith("linux") and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise UserError(f"there is no display to open a window on: {advice}")
    probe = "import cv2; cv2.namedWindow('probe'); cv2.destroyAllWindows()"
    try:
        result = subprocess.run([sys.executable, "-c", probe], capture_output=True, timeout=30)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"the display does not answer: {advice}") from error
    if result.returncode != 0:
        if b"not implemented" in result.stderr:
            raise UserError(
                "this OpenCV has no windows (opencv-python-headless): pip install opencv-python, or give --box"
            )
        raise UserError(f"no window can be opened on this display: {advice}")


def select_targets(window: OpenCVWindow, image: np.ndarray) -> list[Target]:
    """Let the user draw the targets on a frame, one after another; UserError where none was drawn."""
    boxes: list[np.ndarray] = []
    while len(boxes) < MAX_TARGETS:
        hint = "Draw a box around a target. Enter: start    Space: draw another one    "
        drawn = {number: Result(box, 1.0) for number, box in enumerate(boxes, start=1)}
        box, more = window.select(draw_results(image, drawn), hint + ("c: no further one" if boxes else "c: give up"))
        if box is not None:
            boxes.append(box)
        if not more:
            break
    if not boxes:
        raise UserError("no target was drawn: draw a box with the mouse and press Enter, or give --box x,y,w,h")
    return targets_from_boxes(boxes)


Action = Literal["next", "select", "quit"]


class Viewer:
    """Shows results as they come, no faster than ``fps``, and takes the keys of ``--show``.

    space: pause and go on; s or .: pause, one frame on; 1 to 9: choose a target; r: draw the chosen target's box again;
    h: show the keys in the window, or hide them; q or Esc: stop (the files are completed).
    """

    KEYS = "h keys · space pause · s step · 1-9 choose a target · r draw its box again · q quit"

    def __init__(self, window: OpenCVWindow, fps: float) -> None:
        self._window, self._period = window, 1.0 / fps
        self._paused = self._help = False
        self._due = 0.0
        self.chosen = 1

    def show(self, image: np.ndarray, results: Mapping[int, Result]) -> Action:
        """Show one frame; returns when the next one is due, or what the user asked for."""
        picture = draw_results(image, results)
        self._window.show(self._with_help(picture))
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
            elif key == "h":
                self._help = not self._help
                self._window.show(self._with_help(picture))
            elif key in ("s", "."):
                self._paused = True
                return "next"
            elif key.isdigit() and int(key) in results:
                self.chosen = int(key)
            if not self._paused and time.monotonic() >= self._due:
                return "next"

    def select(self, image: np.ndarray) -> np.ndarray | None:
        """Let the user draw the box of target :attr:`chosen` again; None if he cancelled."""
        self._paused = True  # look at the correction before going on
        hint = f"Draw target {self.chosen} again. Enter: go on from there    c: leave it as it is"
        return self._window.select(image, hint)[0]

    def _with_help(self, picture: np.ndarray) -> np.ndarray:
        return with_text(picture, self.KEYS.split(" · ")) if self._help else picture
