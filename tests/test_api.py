"""The few lines of Python that most people need."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import vil_tracker
from vil_tracker.config import ModelConfig
from vil_tracker.errors import UserError
from vil_tracker.models.network import ViLTrackerNet, build_network
from vil_tracker.models.pretrained import save_model
from vil_tracker.videos import VideoReader

BOX = (20.0, 24.0, 16.0, 12.0)


@pytest.fixture(scope="module")
def network() -> ViLTrackerNet:
    torch.manual_seed(0)
    small = ModelConfig(name="nano", dim=32, depth=2, stem="conv", head_channels=16, template_size=32, search_size=64)
    return build_network(small).eval()


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("video") / "clip.avi"
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (96, 64))
    rng = np.random.default_rng(0)
    for _ in range(8):
        writer.write(cv2.GaussianBlur(rng.integers(0, 255, (64, 96, 3), np.uint8), (0, 0), 3))
    writer.release()
    return path


def by_hand(network: ViLTrackerNet, frames: list[np.ndarray]) -> list[vil_tracker.Result]:
    tracker = vil_tracker.Tracker(network)
    return [tracker.init(frames[0], BOX)] + [tracker.update(frame) for frame in frames[1:]]


def test_track_is_init_and_update(network: ViLTrackerNet, video: Path, tmp_path: Path) -> None:
    with VideoReader(video) as reader:
        frames = list(reader)[:4]
    expected = by_hand(network, frames)
    weights = tmp_path / "own.safetensors"
    save_model(network, weights)
    for source, model in ((video, network), (iter(frames), str(weights))):
        found = list(islice(vil_tracker.track(source, BOX, model=model, device="cpu"), 4))
        assert [index for index, _ in found] == list(range(4))
        for (_, result), right in zip(found, expected, strict=True):
            np.testing.assert_array_equal(result.box, right.box)
            assert (result.score, result.state) == (right.score, right.state)


def test_start_and_stride(network: ViLTrackerNet, video: Path) -> None:
    with VideoReader(video) as reader:
        frames = list(reader)
    found = list(vil_tracker.track(video, BOX, model=network, start="0.2s", stride=3))
    assert [index for index, _ in found] == [2, 5]
    np.testing.assert_array_equal(found[1][1].box, by_hand(network, frames[2::3])[1].box)
    assert [index for index, _ in vil_tracker.track(frames, BOX, model=network, stride=4)] == [0, 4]


def test_frames_are_taken_one_at_a_time(network: ViLTrackerNet) -> None:
    taken = []

    def endless() -> Iterator[np.ndarray]:
        while True:
            taken.append(len(taken))
            yield np.full((48, 64, 3), 90, np.uint8)

    run = vil_tracker.track(endless(), BOX, model=network)
    for expected in range(3):
        assert next(run)[0] == expected and len(taken) == expected + 1


def test_mistakes(network: ViLTrackerNet, video: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        vil_tracker.track("no such video.mp4", BOX, model=network)
    with pytest.raises(UserError, match="no shipped weights"):
        vil_tracker.track(video, BOX, model="nanoo")
    with pytest.raises(UserError, match="outside"):
        next(vil_tracker.track(video, (500, 500, 10, 10), model=network))
    with pytest.raises(UserError, match="cut it yourself"):
        vil_tracker.track([np.zeros((8, 8, 3), np.uint8)], BOX, model=network, start=3)


def test_results_as_detections_of_supervision() -> None:
    supervision = pytest.importorskip("supervision", reason="needs the supervision extra")
    from vil_tracker.results import to_detections

    result = vil_tracker.Result(np.array([10.0, 20.0, 30.0, 40.0]), 0.75, "uncertain")
    found = result.to_detections(tracker_id=7)
    assert isinstance(found, supervision.Detections) and len(found) == 1
    np.testing.assert_array_equal(found.xyxy, [[10, 20, 40, 60]])
    assert (found.confidence[0], found.class_id[0], found.tracker_id[0]) == (0.75, 0, 7)
    assert found.data["state"][0] == "uncertain"
    picture = supervision.BoxAnnotator().annotate(np.zeros((80, 80, 3), np.uint8), found)  # it is good for its tools
    assert picture.any()
    lost = vil_tracker.Result(result.box, 0.1, "lost")
    assert len(lost.to_detections()) == 0
    both = to_detections({1: result, 2: lost, 3: result})
    np.testing.assert_array_equal(both.tracker_id, [1, 3])
