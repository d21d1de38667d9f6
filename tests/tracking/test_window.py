"""The window: boxes drawn with the mouse, keys, and what is written into the picture."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from tracking_fakes import ScriptedWindow

from vil_tracker.errors import UserError
from vil_tracker.results import Result
from vil_tracker.tracking import window as window_module
from vil_tracker.tracking.window import OpenCVWindow, Viewer, select_targets, with_text

IMAGE = np.full((120, 320, 3), 90, np.uint8)


class Desktop:
    """Stands in for OpenCV's windows: plays a script of keys and of drags (x1, y1, x2, y2)."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *script: str | tuple[int, int, int, int]) -> None:
        self.script, self.shown = list(script), []
        self.mouse: Callable[..., None] = lambda *_: None
        monkeypatch.setattr(window_module, "_check_display", lambda: None)
        for name in ("namedWindow", "resizeWindow", "destroyWindow"):
            monkeypatch.setattr(cv2, name, lambda *_: None)
        monkeypatch.setattr(cv2, "imshow", lambda _, picture: self.shown.append(picture))
        monkeypatch.setattr(cv2, "getWindowProperty", lambda *_: 1.0)
        monkeypatch.setattr(cv2, "setMouseCallback", lambda _, callback: setattr(self, "mouse", callback))
        monkeypatch.setattr(cv2, "waitKey", self.wait)

    def wait(self, _: int) -> int:
        item = self.script.pop(0)
        if isinstance(item, str):
            return ord(item)
        self.mouse(cv2.EVENT_LBUTTONDOWN, *item[:2], 0, None)
        self.mouse(cv2.EVENT_MOUSEMOVE, *item[2:], 0, None)
        self.mouse(cv2.EVENT_LBUTTONUP, *item[2:], 0, None)
        return -1


@pytest.mark.parametrize(
    "script, boxes",
    [
        ([(10, 20, 50, 60), "\r"], [[10, 20, 40, 40]]),  # Enter starts
        ([(50, 60, 10, 20), "\n"], [[10, 20, 40, 40]]),  # drawn from the other corner
        ([(1, 1, 9, 9), (10, 20, 50, 60), "\r"], [[10, 20, 40, 40]]),  # the last one drawn counts
        ([(10, 20, 50, 60), " ", (100, 30, 120, 50), "\r"], [[10, 20, 40, 40], [100, 30, 20, 20]]),
        ([(10, 20, 50, 60), " ", "\r"], [[10, 20, 40, 40]]),
        ([(10, 20, 50, 60), " ", "c"], [[10, 20, 40, 40]]),
    ],
)
def test_boxes_are_drawn_and_enter_starts(script: list, boxes: list, monkeypatch: pytest.MonkeyPatch) -> None:
    desktop = Desktop(monkeypatch, *script)
    targets = select_targets(OpenCVWindow(), IMAGE)
    assert [target.box.tolist() for target in targets] == boxes and not desktop.script
    plain = cv2.cvtColor(IMAGE, cv2.COLOR_RGB2BGR)
    assert any((picture[100:] != plain[100:]).any() for picture in desktop.shown)  # the hint stands in the window
    assert (desktop.shown[-1][:30, 200:] == plain[:30, 200:]).all()


@pytest.mark.parametrize("script", ["\r", "c", "q", "\x1b"])
def test_without_a_box_nothing_starts(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Desktop(monkeypatch, script)
    with pytest.raises(UserError, match="no target was drawn"):
        select_targets(OpenCVWindow(), IMAGE)


def test_h_shows_the_keys_and_hides_them() -> None:
    window = ScriptedWindow([" ", "h", "s", "h", "s"])
    viewer, results = Viewer(window, 25.0), {1: Result(np.array([10.0, 10, 20, 20]), 1.0)}
    assert [viewer.show(IMAGE, results) for _ in range(2)] == ["next", "next"]
    first, with_keys, still, hidden = window.shown
    assert (with_keys != first).any() and (still == with_keys).all() and (hidden == first).all()


def test_text_fits_into_small_and_large_pictures() -> None:
    for size in ((6, 10), (120, 160), (2000, 3000)):
        image = np.zeros((*size, 3), np.uint8)
        picture = with_text(image, ["Draw a box around a target. Enter: start", "c: give up"])
        assert picture.shape == image.shape and picture.any() and not image.any()
