"""Video files: they play, in full, at the right speed, whatever the frames' sizes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tracking_fakes import numbered_frame, read_number, read_video

from vil_tracker.errors import UserError
from vil_tracker.io import video_writer
from vil_tracker.io.video_writer import FFmpegEncoder, VideoSink, choose_codec, find_ffmpeg, fit


@pytest.fixture
def without_ffmpeg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(video_writer, "find_ffmpeg", lambda: None)


@pytest.fixture
def ffmpeg() -> str:
    program = find_ffmpeg()
    if program is None or not video_writer._has_encoder(program, "h264"):
        pytest.skip("needs an ffmpeg program with libx264: pip install '.[video]'")
    return program


def check_round_trip(folder: Path, codec: str, fps: float) -> Path:
    sink = VideoSink(folder, "out", fps, codec)
    for number in range(12):
        sink.write(numbered_frame(number))
    sink.finish()
    read_fps, frames = read_video(sink.path)
    assert read_fps == pytest.approx(fps, abs=0.01)
    assert [read_number(frame) for frame in frames] == list(range(12))
    return sink.path


@pytest.mark.parametrize("codec, fps", [("vp8", 29.97), ("vp9", 25.0), ("mp4v", 23.976)])
@pytest.mark.usefixtures("without_ffmpeg")
def test_opencv_keeps_rate_and_length(
    tmp_path: Path, codec: str, fps: float, capfd: pytest.CaptureFixture[str]
) -> None:
    check_round_trip(tmp_path, codec, fps)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("codec, fps", [("h264", 30000 / 1001), ("vp9", 29.97), ("vp8", 23.976)])
def test_ffmpeg_keeps_rate_and_length(tmp_path: Path, ffmpeg: str, codec: str, fps: float) -> None:
    check_round_trip(tmp_path, codec, fps)


@pytest.mark.usefixtures("without_ffmpeg")
def test_webm_is_the_default_and_is_really_webm(tmp_path: Path) -> None:
    path = check_round_trip(tmp_path, "auto", 25.0)
    assert path.suffix == ".webm"
    assert path.read_bytes()[:4] == b"\x1a\x45\xdf\xa3" and b"webm" in path.read_bytes()[:64]


@pytest.mark.usefixtures("without_ffmpeg")
def test_without_webm_there_is_a_fallback_with_a_note(monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr(video_writer, "_opencv_writes", lambda codec: False)
    monkeypatch.setattr(video_writer.log.parent, "propagate", True)
    assert choose_codec("auto") == ("mp4v", None)
    assert "browsers do not" in caplog.text


@pytest.mark.usefixtures("without_ffmpeg")
def test_unknown_or_missing_codecs_are_refused() -> None:
    with pytest.raises(UserError, match="choose one of"):
        choose_codec("av2")
    with pytest.raises(UserError, match=r"vil-tracker\[video\]"):
        choose_codec("h264")


@pytest.mark.parametrize("height, width", [(1, 1), (3, 200), (63, 95), (120, 17)])
def test_odd_and_tiny_frames(tmp_path: Path, height: int, width: int) -> None:
    sink = VideoSink(tmp_path, "out", 25.0)
    for value in (60, 200):
        sink.write(np.full((height, width, 3), value, np.uint8))
    sink.finish()
    frames = read_video(sink.path)[1]
    assert len(frames) == 2
    h, w = frames[0].shape[:2]
    assert h >= height and w >= width and h % 2 == w % 2 == 0
    assert frames[1][h // 2, w // 2].mean() > frames[0][h // 2, w // 2].mean() + 80


def test_frames_that_change_size_are_fitted(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path, "out", 25.0)
    sizes = [(96, 64), (192, 128), (40, 200), (1, 1), (96, 64)]
    for number, (width, height) in enumerate(sizes):
        sink.write(numbered_frame(number, max(width, 8), height) if width > 1 else np.zeros((1, 1, 3), np.uint8))
    sink.finish()
    frames = read_video(sink.path)[1]
    assert [frame.shape for frame in frames] == [(64, 96, 3)] * 5
    assert [read_number(frames[i]) for i in (0, 1, 4)] == [0, 1, 4]


def test_fit_keeps_proportions() -> None:
    wide = fit(np.full((50, 100, 3), 200, np.uint8), 100, 100)
    assert (wide[:24] == 0).all() and (wide[26:74] == 200).all() and (wide[76:] == 0).all()
    same = np.zeros((4, 4, 3), np.uint8)
    assert fit(same, 4, 4) is same


def test_no_frame_no_file(tmp_path: Path) -> None:
    VideoSink(tmp_path, "out", 25.0).finish()
    assert list(tmp_path.iterdir()) == []


def test_abandoned_encoders_let_go(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path, "out", 25.0)
    sink.write(numbered_frame(1))
    sink.abandon()
    sink.abandon()  # a second time changes nothing
    sink.path.unlink(missing_ok=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("without_ffmpeg")
def test_full_disk_is_noticed_by_opencv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = VideoSink(tmp_path, "out", 25.0)
    sink.write(numbered_frame(1))
    monkeypatch.setattr(video_writer.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 100}))
    with pytest.raises(UserError, match="disk is full"):
        sink.finish()
    sink.abandon()


def test_program_that_fails_is_one_line(tmp_path: Path) -> None:
    program = tmp_path / "ffmpeg"
    program.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('first\\nNo space left on device')\n")
    program.chmod(0o755)
    encoder = FFmpegEncoder(tmp_path / "out.mp4", "h264", 25.0, (96, 64), str(program))
    with pytest.raises(UserError, match="'No space left on device'") as caught:
        for number in range(2000):
            encoder.write(numbered_frame(number % 256))
        encoder.finish()
    assert "\n" not in str(caught.value)
    encoder.abandon()


def test_exact_rate_reaches_the_file(tmp_path: Path, ffmpeg: str) -> None:
    path = check_round_trip(tmp_path, "h264", 30000 / 1001)
    report = subprocess.run([ffmpeg, "-hide_banner", "-i", str(path)], capture_output=True, text=True).stderr
    assert "29.97 fps" in report and "h264" in report
