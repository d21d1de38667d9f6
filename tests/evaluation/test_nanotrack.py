"""NanoTrack V3 as a peer: the boxes of its authors' manner of tracking, on the same frames."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import pytest

from vil_tracker.errors import UserError
from vil_tracker.evaluation.nanotrack import NanoTrackV3
from vil_tracker.evaluation.trackers import parse_tracker

pytest.importorskip("onnxruntime")


def _moving_square(count: int) -> list[np.ndarray]:
    """RGB frames of a coloured square over noise; it grows and leaves through the right edge."""
    ground = np.random.default_rng(0).integers(0, 90, (120, 160, 3), dtype=np.uint8)
    frames = []
    for index in range(count):
        frame = ground.copy()
        left, side = 20 + 9 * index, 30 + index
        cv2.rectangle(frame, (left, 40), (left + side, 40 + side), (240, 60, 30), -1)
        cv2.circle(frame, (left + side // 2, 55), 8, (20, 220, 240), -1)
        frames.append(frame)
    return frames


def test_boxes_equal_those_of_the_reference_runner(shared: Path) -> None:
    folder = shared / "peers" / "nanotrack_v3"
    if not (folder / "run.py").is_file():
        pytest.skip("no NanoTrack V3 in the research data")
    spec = importlib.util.spec_from_file_location("nanotrack_v3_run", folder / "run.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    theirs, ours = module.Nano3(str(folder)), NanoTrackV3(shared / "peers")
    frames, box = _moving_square(14), np.array([20.0, 40.0, 31.0, 31.0])
    theirs.init(frames[0][..., ::-1], box)
    ours.init(frames[0], box)
    moved = 0.0
    for frame in frames[1:]:
        expected, score = theirs.update(frame[..., ::-1])
        found = ours.update(frame)
        np.testing.assert_allclose(found.box, expected, rtol=0, atol=1e-9)
        assert found.score == pytest.approx(score, abs=1e-9)
        moved = float(found.box[0] - box[0])
    assert moved > 20  # it follows, so that equality says something


def test_by_name(shared: Path) -> None:
    spec = parse_tracker("nanotrack:V3", peers_dir=str(shared / "peers"))
    assert (spec.name, spec.deterministic) == ("nanotrack:v3", True)
    assert isinstance(spec.build(), NanoTrackV3)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--peers-dir"):
        parse_tracker("nanotrack:v3").build()
    with pytest.raises(UserError, match=r"no file nanotrack_backbone\.onnx"):
        NanoTrackV3(tmp_path)
    with pytest.raises(UserError, match="unknown tracker 'nanotrack:v9'; write .*nanotrack:v3"):
        parse_tracker("nanotrack:v9")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    for name in ("nanotrack_backbone.onnx", "nanotrack_head.onnx"):
        (tmp_path / name).write_bytes(b"no network")
    with pytest.raises(UserError, match=r"nanotrack_backbone\.onnx is no network"):
        NanoTrackV3(tmp_path)
