"""OpenCV's trackers behind our two calls."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from vil_tracker.errors import UserError
from vil_tracker.evaluation import baselines
from vil_tracker.evaluation.baselines import OpenCvTracker


class Recorder:
    """Stands for a tracker of OpenCV and keeps what it is given."""

    def __init__(self) -> None:
        self.frames: list[np.ndarray] = []
        self.answers = [(True, (5, 6, 7, 8)), (False, (0, 0, 0, 0))]

    def init(self, frame: np.ndarray, box: tuple) -> None:
        self.frames.append(frame)
        self.box = box

    def update(self, frame: np.ndarray) -> tuple:
        self.frames.append(frame)
        return self.answers.pop(0)

    def getTrackingScore(self) -> float:
        return 0.75


def test_frames_become_bgr_and_boxes_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    monkeypatch.setattr(baselines, "_factory", lambda name, weights: lambda: recorder)
    tracker = OpenCvTracker("nano")
    red = np.zeros((20, 30, 3), np.uint8)
    red[..., 0] = 255  # red comes first in RGB
    tracker.init(red, np.array([1.4, 2.6, 0.3, 8.5]))
    assert recorder.box == (1, 3, 1, 8)
    assert recorder.frames[0][0, 0].tolist() == [0, 0, 255]
    found, failed = tracker.update(red), tracker.update(red)
    assert recorder.frames[1][0, 0].tolist() == [0, 0, 255]
    assert found.box.tolist() == [5, 6, 7, 8] and found.score == 0.75 and found.state == "tracking"
    assert failed.box.tolist() == [5, 6, 7, 8] and failed.score == 0.0 and failed.state == "lost"


def test_what_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="no tracker 'Foo'; choose from MIL"):
        baselines.canonical_name("Foo")
    monkeypatch.delattr(cv2, "TrackerMIL_create", raising=False)
    monkeypatch.delattr(cv2, "TrackerMIL", raising=False)
    monkeypatch.delattr(cv2, "legacy", raising=False)
    assert "has no tracker MIL" in str(baselines.unavailable_reason("mil", None))


def test_networks_are_looked_for(tmp_path: Path) -> None:
    if not hasattr(cv2, "TrackerNano"):
        pytest.skip("this OpenCV has no TrackerNano")
    assert "--peers-dir" in str(baselines.unavailable_reason("Nano", None))
    assert "*nano*backbone*.onnx" in str(baselines.unavailable_reason("Nano", tmp_path))


def blob_video(count: int) -> list[np.ndarray]:
    """A coloured square that moves over noise."""
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 90, (120, 160, 3), dtype=np.uint8)
    frames = []
    for index in range(count):
        frame = ground.copy()
        cv2.rectangle(frame, (30 + 2 * index, 40), (60 + 2 * index, 70), (240, 60, 30), -1)
        cv2.circle(frame, (45 + 2 * index, 55), 8, (20, 220, 240), -1)
        frames.append(frame)
    return frames


def test_nano_follows_a_square(shared: Path) -> None:
    if baselines.unavailable_reason("Nano", shared / "peers") is not None:
        pytest.skip("this OpenCV has no TrackerNano")
    tracker = OpenCvTracker("Nano", shared / "peers")
    frames = blob_video(6)
    tracker.init(frames[0], np.array([30.0, 40, 31, 31]))
    result = [tracker.update(frame) for frame in frames[1:]][-1]
    assert abs(result.box[0] + result.box[2] / 2 - 55.5) < 6 and 0 < result.score <= 1
