"""Boxes for videos that have none: kept only where the way back ends on the start and the score stays high."""

from __future__ import annotations

import importlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from vil_tracker.data.dataset import open_folder
from vil_tracker.results import Result
from vil_tracker.training.pseudo_boxes import moving_boxes, pseudo_tracks, textured_boxes, there_and_back


def _square(index: int) -> np.ndarray:
    """A textured square that moves by 4 pixels a frame over a textured ground that moves by 1."""
    rng = np.random.default_rng(0)
    ground = cv2.GaussianBlur(rng.integers(0, 255, (160, 260, 3), dtype=np.uint8), (0, 0), 2)
    square = cv2.GaussianBlur(rng.integers(0, 255, (36, 36, 3), dtype=np.uint8), (0, 0), 1.5)
    frame = np.roll(ground, index, axis=1)[:, :240].copy()
    frame[60:96, 30 + 4 * index : 66 + 4 * index] = square
    return frame


class Follower:
    """Follows the square exactly; ``drift`` pixels a frame are added on the way back."""

    def __init__(self, drift: float = 0.0, score: float = 0.9) -> None:
        self.drift, self.score, self.runs = drift, score, 0

    def init(self, frame: np.ndarray, box: np.ndarray) -> None:
        self.box, self.step = np.asarray(box, float), (4.0, self.drift - 4.0)[self.runs % 2]
        self.runs += 1

    def update(self, frame: np.ndarray) -> Result:
        self.box = self.box + np.array([self.step, 0, 0, 0])
        return Result(box=self.box.copy(), score=self.score, state="tracking")


FRAMES = [_square(index) for index in range(20)]
START = np.array([30.0, 60.0, 36.0, 36.0])


def test_what_comes_back_is_kept() -> None:
    boxes = there_and_back(Follower(), FRAMES, START)
    assert boxes is not None
    np.testing.assert_allclose(boxes[:, 0], 30 + 4 * np.arange(20))


def test_what_does_not_come_back_is_dropped() -> None:
    assert there_and_back(Follower(drift=0.5), FRAMES, START) is None  # 9.5 of 36 pixels off at the end


def test_a_low_score_is_dropped() -> None:
    assert there_and_back(Follower(score=0.5), FRAMES, START) is None


def test_frames_without_agreement_have_no_box() -> None:
    class Wavering(Follower):
        def update(self, frame: np.ndarray) -> Result:
            result = super().update(frame)
            if self.runs == 2 and abs(self.box[0] - 70.0) < 1:
                result.box[:2] += 30
            return result

    boxes = there_and_back(Wavering(), FRAMES, START)
    assert boxes is not None
    assert np.flatnonzero(np.isnan(boxes[:, 0])).tolist() == [10]


def test_what_moves_is_found() -> None:
    found = moving_boxes(FRAMES[0], FRAMES[3], np.random.default_rng(0))
    assert found
    centre = found[0][:2] + found[0][2:] / 2
    assert abs(centre[0] - 48) < 14 and abs(centre[1] - 78) < 10


def test_textured_places_are_found() -> None:
    """On a flat ground they touch the one textured square, and lie in the picture."""
    frame = np.full((160, 240, 3), 110, np.uint8)
    frame[60:96, 30:66] = FRAMES[0][60:96, 30:66] // 2
    for box in textured_boxes(frame, np.random.default_rng(0), count=4):
        left, top = np.minimum(box[:2] + box[2:], (66, 96)) - np.maximum(box[:2], (30, 60))
        assert left > 0 and top > 0 and left * top > 0.25 * min(box[2] * box[3], 36 * 36)
        assert (box[:2] >= 0).all() and (box[:2] + box[2:] <= (240, 160)).all()


@pytest.mark.parametrize("textured", [False, True])
def test_tracks_of_a_video(textured: bool) -> None:
    tracks = list(pseudo_tracks(Follower(), FRAMES, np.random.default_rng(0), length=20, attempts=6, textured=textured))
    assert 1 <= len(tracks) <= 4
    assert all(len(track.boxes) + track.first <= len(FRAMES) for track in tracks)
    assert list(pseudo_tracks(Follower(), FRAMES[:10], np.random.default_rng(0))) == []


def test_the_whole_command(tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.syspath_prepend(Path(__file__).parents[2] / "scripts")
    label_videos = importlib.import_module("label_videos")
    (tmp_path / "videos").mkdir()
    writer = cv2.VideoWriter(str(tmp_path / "videos" / "a.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (240, 160))
    for frame in FRAMES:
        writer.write(frame[..., ::-1])
    writer.release()
    words = ["label_videos", str(tmp_path / "videos"), str(tmp_path / "out"), "--peers-dir", str(shared / "peers")]
    monkeypatch.setattr("sys.argv", words)
    assert label_videos.main() == 0
    assert (tmp_path / "out" / ".a.avi.done").is_file()
    if list((tmp_path / "out").glob("*.txt")):
        assert open_folder(tmp_path / "out", cache_dir=tmp_path / "cache")[0].visible.any()
