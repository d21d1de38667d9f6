"""Real videos in training: held-out targets, several targets in one file, frames decoded once."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import data_trees as trees
import numpy as np
import pytest
from tracking_fakes import read_number
from video_files import RECIPES, write_file

from vil_tracker.config import Config, DataConfig, ModelConfig, SourceConfig
from vil_tracker.data.dataset import open_dataset
from vil_tracker.data.frame_cache import INFO, decoded_video
from vil_tracker.data.pairs import VideoPairs, chosen_by
from vil_tracker.data.sources import build_source
from vil_tracker.errors import UserError
from vil_tracker.videos import VideoReader


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four videos of six targets; one of the two joggers and the whole of ``sea`` are held out."""
    for name in ("car", "drone_1", "jog", "sea"):
        trees.video(tmp_path / "data" / "own" / f"{name}.avi", 5)
    for name in ("car", "drone_1", "jog_1", "jog_2", "sea"):
        trees.text(tmp_path / "data" / "own" / f"{name}.txt", trees.boxes(5))
    trees.text(tmp_path / "data" / "own" / "validation.txt", "jog_2\nsea\n")
    return tmp_path / "data"


def _names(root: Path, split: str) -> list[str]:
    return open_dataset("folder:own", split, data_root=root, cache_dir=root.parent / "cache").names


def _build(root: Path, *sources: SourceConfig) -> VideoPairs:
    model = ModelConfig(template_size=64, search_size=128)
    mixture = build_source(Config(model=model, data=DataConfig(sources=sources)), root, root.parent / "cache")
    return mixture.sources[0]  # type: ignore[attr-defined]


def test_held_out_targets_are_left_out_with_their_videos(root: Path) -> None:
    assert _names(root, "all") == ["car", "drone_1", "jog_1", "jog_2", "sea"]
    assert _names(root, "validation") == ["jog_2", "sea"]
    assert _names(root, "train") == ["car", "drone_1"]  # jog_1 is in the video of jog_2


def test_training_takes_the_train_split_by_itself(root: Path) -> None:
    source = _build(root, SourceConfig(name="folder:own"))
    assert [source.dataset.name_of(i) for i in source.usable] == ["car", "drone_1"]


@pytest.mark.parametrize("split", ["all", "validation"])
def test_training_on_held_out_targets_is_refused(root: Path, split: str) -> None:
    with pytest.raises(UserError, match="2 held-out targets, such as jog_2"):
        _build(root, SourceConfig(name="folder:own", split=split))


def test_a_name_that_no_video_has_is_refused(root: Path) -> None:
    trees.text(root / "own" / "validation.txt", "jog_2\nsee\n")
    with pytest.raises(UserError, match="names see"):
        _names(root, "train")


def test_sequences_by_pattern(root: Path) -> None:
    source = _build(root, SourceConfig(name="folder:own", names="!drone_*"))
    assert [source.dataset.name_of(i) for i in source.usable] == ["car"]
    assert chosen_by("a*, !ab", "ac") and not chosen_by("a*, !ab", "ab") and not chosen_by("a*", "b")
    with pytest.raises(UserError, match=r"no sequence of nothing\*"):
        _build(root, SourceConfig(name="folder:own", names="nothing*"))


def test_frames_come_from_the_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _build(root, SourceConfig(name="folder:own"))
    source = _build(root, SourceConfig(name="folder:own"))
    monkeypatch.setattr(VideoReader, "read", lambda self: pytest.fail("decoded again"))
    sequence = source.dataset[0]
    assert abs(int(sequence.frames[3].mean()) - 120) < 6
    source.sample(np.random.default_rng(0), 1.0)


def test_large_frames_are_shrunk_with_their_boxes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vil_tracker.data.frame_cache.LONG_SIDE", 32)
    dataset = open_dataset("folder:own", "all", data_root=root, cache_dir=root.parent / "cache")
    boxes = dataset[0].boxes.copy()
    dataset.decode_videos(root.parent / "small")
    assert dataset[0].frames[0].shape == (24, 32, 3)
    np.testing.assert_allclose(dataset[0].boxes, boxes / 2)


def test_an_interrupted_cache_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, video = root.parent / "frames", root / "own" / "car.avi"
    real = VideoReader.read
    monkeypatch.setattr(VideoReader, "read", lambda self: real(self) if self._position < 2 else _raise())
    with pytest.raises(KeyboardInterrupt):
        decoded_video(cache, video)
    assert not list(cache.iterdir())
    monkeypatch.setattr(VideoReader, "read", real)
    place, _ = decoded_video(cache, video)
    assert sorted(path.name for path in place.iterdir()) == [*(f"{i:06d}.jpg" for i in range(1, 6)), INFO]


def _raise() -> None:
    raise KeyboardInterrupt


def test_a_changed_video_is_decoded_again(root: Path) -> None:
    cache, video = root.parent / "frames", root / "own" / "car.avi"
    first, _ = decoded_video(cache, video)
    trees.video(video, 3)
    os.utime(video, ns=(1, 1))
    second, _ = decoded_video(cache, video)
    assert [len(list(folder.glob("*.jpg"))) for folder in (first, second)] == [5, 3]
    assert cv2.imread(str(second / "000003.jpg")) is not None


def test_a_video_without_frames_is_named(root: Path) -> None:
    (root / "own" / "car.avi").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"car\.avi"):
        decoded_video(root.parent / "frames", root / "own" / "car.avi")


def test_lengths_are_those_of_the_decoded_frames(tmp_path: Path) -> None:
    """A browser's recording, which states no length, and a camcorder's file, whose ending is in capitals."""
    (tmp_path / "own").mkdir()
    for kind, name, count in (("vp9 webm", "call.webm", 9), ("h264 avchd", "00001.MTS", 7)):
        made = write_file(tmp_path, RECIPES[kind], [number / 25 for number in range(count)])
        data = made.read_bytes().replace(b"\x44\x89", b"\xec\x87", 1)  # no duration
        (tmp_path / "own" / name).write_bytes(data)
        trees.text((tmp_path / "own" / name).with_suffix(".txt"), trees.boxes(count))
    dataset = open_dataset("folder:own", "all", data_root=tmp_path, cache_dir=tmp_path / "cache")
    assert [(sequence.name, len(sequence), len(sequence.frames)) for sequence in dataset] == [
        ("00001", 7, 7),
        ("call", 9, 9),
    ]
    assert read_number(dataset[0].frames[6]) == 6 and read_number(dataset[1].frames[8]) == 8
