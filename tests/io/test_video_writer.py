"""Video files: they play, in full, at the source's own speed and with its sound, whatever the frames' sizes."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from tracking_fakes import numbered_frame, read_number, read_video

from vil_tracker.errors import UserError
from vil_tracker.io import video_writer
from vil_tracker.io.source import Sound
from vil_tracker.io.video_writer import VideoSink, choose_codec, fit


def write_numbers(sink: VideoSink, times: list[float]) -> Path:
    for number, time in enumerate(times):
        sink.write(numbered_frame(number), time)
    sink.finish()
    return sink.path


@pytest.mark.parametrize("codec", ["vp9", "h264"])
@pytest.mark.parametrize("fps", [25.0, 29.97, 30000 / 1001, 23.976, 12.5])
def test_rate_and_length_as_another_reader_sees_them(tmp_path: Path, codec: str, fps: float) -> None:
    sink = VideoSink(tmp_path, "out", fps, codec)
    for number in range(12):
        sink.write(numbered_frame(number))
    sink.finish()
    read_fps, frames = read_video(sink.path)  # through OpenCV
    assert read_fps == pytest.approx(fps, abs=0.01)
    assert [read_number(frame) for frame in frames] == list(range(12))


@pytest.mark.parametrize("codec, exact", [("vp9", 1e-3), ("h264", 1e-4)])
def test_a_variable_rate_is_kept(tmp_path: Path, codec: str, exact: float) -> None:
    times = [3.0 + t for t in (0, 0.033, 0.067, 0.2, 0.2, 0.5, 1.25)]  # from 3 s on; two frames at one time
    path = write_numbers(VideoSink(tmp_path, "out", 18.0, codec), times)
    with av.open(str(path)) as container:
        found = [frame.time for frame in container.decode(video=0)]
    assert len(found) == len(times) and found[0] == 0
    np.testing.assert_allclose(found, np.array(times) - 3, atol=1.5 * exact)
    assert (np.diff(found) > 0).all()


def test_webm_is_the_default_and_is_really_webm(tmp_path: Path) -> None:
    path = write_numbers(VideoSink(tmp_path, "out", 25.0), [0.0, 0.04])
    assert path.suffix == ".webm"
    assert path.read_bytes()[:4] == b"\x1a\x45\xdf\xa3" and b"webm" in path.read_bytes()[:64]


def test_unknown_or_missing_codecs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="choose one of"):
        choose_codec("av2")
    monkeypatch.setattr(video_writer, "_encoder", lambda codec: None)
    with pytest.raises(UserError, match="cannot encode h264: pip install"):
        choose_codec("h264")


def beep(path: Path, codec: str, seconds: float = 2.0) -> Sound:
    """A file with pictures, and a tone that is silent for its first second."""
    with av.open(str(path), "w") as container:
        video = container.add_stream("mpeg4", rate=25)
        video.width, video.height = 96, 64
        audio = container.add_stream(codec, rate=48000, layout="mono")
        for number in range(round(25 * seconds)):
            container.mux(video.encode(av.VideoFrame.from_ndarray(numbered_frame(number), format="rgb24")))
        container.mux(video.encode(None))
        t = np.arange(round(48000 * seconds)) / 48000
        wave = (0.5 * np.sin(2 * np.pi * 440 * t) * (t >= 1)).astype(np.float32)
        for begin in range(0, len(wave), 960):
            frame = av.AudioFrame.from_ndarray(wave[None, begin : begin + 960], format="fltp", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, begin, Fraction(1, 48000)
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return Sound(str(path), 0.0)


def loud_from(path: Path) -> tuple[float, float]:
    """When the tone begins and when the sound ends, in seconds of the video's clock."""
    loud, last = [], 0.0
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            last = frame.time + frame.samples / frame.sample_rate
            if np.abs(frame.to_ndarray()).max() > 0.1:
                loud.append(frame.time)
    return loud[0], last


@pytest.mark.parametrize("codec, wanted, suffix", [("aac", "auto", ".mp4"), ("libopus", "auto", ".webm")])
def test_sound_is_copied_in_step(tmp_path: Path, codec: str, wanted: str, suffix: str) -> None:
    sound = beep(tmp_path / "in.mkv", codec)
    times = [0.5 + number / 25 for number in range(25)]  # from the middle of the source
    path = write_numbers(VideoSink(tmp_path, "out", 25.0, wanted, sound=sound), times)
    begins, ends = loud_from(path)
    assert path.suffix == suffix
    assert begins == pytest.approx(0.5, abs=0.06) and ends == pytest.approx(1.0, abs=0.06)


def test_sound_that_does_not_fit_is_left_out_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    video_writer.log.parent.propagate = True
    sound = beep(tmp_path / "in.mkv", "aac")
    path = write_numbers(VideoSink(tmp_path, "out", 25.0, "vp9", sound=sound), [0.0, 0.04])
    assert "sound (aac) does not fit into a .webm file" in caplog.text
    assert len(read_video(path)[1]) == 2


def test_sound_that_breaks_off_does_not_end_the_pictures(tmp_path: Path) -> None:
    """Of every length that a cut may leave, in the middle of packets and of their headers."""
    sound = beep(tmp_path / "in.mkv", "libopus")
    data = Path(sound.path).read_bytes()
    for share in (0.4, 0.6, 0.61, 0.75, 0.9):
        Path(sound.path).write_bytes(data[: int(len(data) * share)] + bytes(200))
        path = write_numbers(VideoSink(tmp_path, "out", 25.0, sound=sound), [number / 25 for number in range(50)])
        assert [read_number(frame) for frame in read_video(path)[1]] == list(range(50))


@pytest.mark.parametrize(
    "codec, aspect, size", [("vp9", Fraction(4, 3), (128, 64)), ("h264", Fraction(1, 2), (96, 128))]
)
def test_pixels_that_are_not_square_are_stretched(tmp_path: Path, codec: str, aspect: Fraction, size) -> None:
    path = write_numbers(VideoSink(tmp_path, "out", 25.0, codec, pixel_aspect=aspect), [0.0])
    frame = read_video(path)[1][0]
    assert frame.shape[1::-1] == size


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


@pytest.mark.parametrize("codec", ["vp9", "h264"])
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_one_line(tmp_path: Path, codec: str) -> None:
    sink = VideoSink(tmp_path, "out", 25.0, codec)
    sink.path.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot write out\..*No space left") as caught:
        for number in range(200):
            sink.write(numbered_frame(number))
        sink.finish()
    assert "\n" not in str(caught.value)
    sink.abandon()


@pytest.mark.parametrize("codec", ["vp9", "h264"])
def test_a_killed_writer_leaves_a_video_up_to_a_second_before(tmp_path: Path, codec: str) -> None:
    script = f"""
        import os, signal, sys
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from pathlib import Path
        from tracking_fakes import numbered_frame
        from vil_tracker.io.video_writer import VideoSink
        sink = VideoSink(Path({str(tmp_path)!r}), "out", 25.0, {codec!r})
        for number in range(150):
            sink.write(numbered_frame(number))
        os.kill(os.getpid(), signal.SIGKILL)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], timeout=60)
    frames = read_video(next(tmp_path.iterdir()))[1]
    assert [read_number(frame) for frame in frames] == list(range(len(frames)))
    assert len(frames) >= 150 - 50
