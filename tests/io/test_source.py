"""Sources: the right frames in the right order with the right numbers, and one-line errors for everything else."""

from __future__ import annotations

import functools
import http.server
import io
import logging
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from tracking_fakes import jpeg, numbered_frame, read_number, serve, write_video

from vil_tracker.errors import UserError
from vil_tracker.io.files import StdinSource, open_source
from vil_tracker.io.image_pipe import split_images
from vil_tracker.io.live import LiveSource
from vil_tracker.io.source import Start, parse_start


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_video(tmp_path_factory.mktemp("video") / "clip.mp4", 30)


def numbers(source) -> list[tuple[int, int]]:
    """Of every frame: the number that the source says, and the one that is painted in it."""
    try:
        return [(frame.number, read_number(frame.image)) for frame in source]
    finally:
        source.close()


def test_video_frames_are_numbered_from_zero_with_their_times(video: Path) -> None:
    source = open_source(video)
    assert source.fps == pytest.approx(29.97, abs=1e-3) and source.total == 30 and not source.live
    frames = list(source)
    assert [(f.number, read_number(f.image)) for f in frames] == [(i, i) for i in range(30)]
    assert frames[29].time == pytest.approx(29 / 29.97, abs=1e-3)


@pytest.mark.parametrize("start, stride", [(0, 1), (7, 1), (7, 3), (0, 29), (29, 5), (3, 30)])
def test_start_and_stride(video: Path, start: int, stride: int) -> None:
    source = open_source(video, start=Start(start), stride=stride)
    wanted = list(range(start, 30, stride))
    assert source.total == len(wanted)
    assert numbers(source) == [(i, i) for i in wanted]


def test_start_may_be_a_time(video: Path) -> None:
    assert numbers(open_source(video, start=parse_start("0.5s")))[0] == (15, 15)


@pytest.mark.parametrize(
    "text, start",
    [("12", Start(12)), ("1.5s", Start(seconds=1.5)), (".5s", Start(seconds=0.5)), ("01:02", Start(seconds=62)),
     ("00:01:02", Start(seconds=62)), ("1:00:00.25", Start(seconds=3600.25))],
)  # fmt: skip
def test_parse_start(text: str, start: Start) -> None:
    assert parse_start(text) == start


@pytest.mark.parametrize("text", ["", "-1", "-1s", "nan", "1e3s", "abc", "1:2:3:4", "5 s", "٣", "9" * 40])
def test_parse_start_refuses_nonsense(text: str) -> None:
    with pytest.raises(UserError, match="neither a frame nor a time"):
        parse_start(text)


def test_time_of_a_frame_gives_that_frame() -> None:
    for fps in (23.976, 25.0, 29.97, 30000 / 1001, 59.94):
        assert all(Start(seconds=n / fps).index(fps) == n for n in range(0, 5000, 7))


def save_images(folder: Path, names: list[str]) -> None:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        cv2.imwrite(str(folder / name), numbered_frame(number)[..., ::-1])


def test_image_folder_in_natural_order_ignoring_other_files(tmp_path: Path) -> None:
    names = ["img1.png", "img2.jpg", "img9.png", "img10.png", "img100.BMP"]
    save_images(tmp_path / "frames", names)
    (tmp_path / "frames" / "notes.txt").write_text("x")
    (tmp_path / "frames" / "._img3.png").write_bytes(b"resource fork")
    source = open_source(tmp_path / "frames", fps=10)
    frames = list(source)
    assert [f.name for f in frames] == names
    assert [read_number(f.image) for f in frames] == list(range(5))
    assert source.total == 5 and frames[4].time == pytest.approx(0.4)


def test_glob_and_single_image(tmp_path: Path) -> None:
    save_images(tmp_path, ["a1.png", "a2.png", "b1.png"])
    assert numbers(open_source(f"{tmp_path}/a*.png")) == [(0, 0), (1, 1)]
    assert numbers(open_source(tmp_path / "b1.png")) == [(0, 2)]


def jpeg_with_thumbnail(number: int) -> bytes:
    """A JPEG whose EXIF segment holds a whole JPEG, end marker included, as cameras write them."""
    data, thumbnail = jpeg(numbered_frame(number)), jpeg(numbered_frame(255, 32, 32))
    segment = b"Exif\0\0" + thumbnail
    return data[:2] + b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment + data[2:]


def stream_of(number: int) -> bytes:
    image = Image.fromarray(numbered_frame(number))
    buffer = io.BytesIO()
    if number % 4 == 0:
        image.save(buffer, "PNG")
    elif number % 4 == 1:
        image.save(buffer, "JPEG", progressive=True, quality=90)
    elif number % 4 == 2:
        image.save(buffer, "JPEG", restart_marker_rows=1, quality=90)
    else:
        return jpeg_with_thumbnail(number)
    return buffer.getvalue()


class Trickle(io.RawIOBase):
    """A pipe that hands out a few bytes at a time."""

    def __init__(self, data: bytes, size: int) -> None:
        self._rest, self._size = memoryview(data), size

    def read(self, size: int = -1) -> bytes:
        chunk, self._rest = bytes(self._rest[: self._size]), self._rest[self._size :]
        return chunk


@pytest.mark.parametrize("chunk", [1 << 16, 61])
def test_stdin_of_mixed_images(chunk: int) -> None:
    parts = [stream_of(number) for number in range(8)]
    assert list(split_images(Trickle(b"".join(parts), chunk))) == parts
    assert numbers(StdinSource(Trickle(b"\n".join(parts), chunk))) == [(i, i) for i in range(8)]
    skipping = StdinSource(Trickle(b"".join(parts), chunk), start=Start(1), stride=3)
    assert numbers(skipping) == [(1, 1), (4, 4), (7, 7)]


def test_stdin_cut_off_in_an_image_ends_there(caplog: pytest.LogCaptureFixture) -> None:
    data = stream_of(0) + stream_of(1)
    for cut in (1, 100, len(stream_of(1)) - 1):
        caplog.clear()
        with caplog.at_level(logging.WARNING, "vil_tracker"):
            logging.getLogger("vil_tracker").propagate = True
            assert numbers(StdinSource(Trickle(data[: len(stream_of(0)) + cut], 100))) == [(0, 0)]
        assert "middle of image 1" in caplog.text


@pytest.mark.parametrize(
    "data, message",
    [(b"", "holds no image"), (b"GIF89a......", "neither JPEG nor PNG"), (b"\x89PNG", "holds no image"),
     (b"\x89PNG\r\n\x1a\n" + b"\xff" * 100, "over 256 MiB")],
)  # fmt: skip
def test_stdin_without_an_image(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        list(StdinSource(Trickle(data, 100)))


def test_stdin_that_never_ends_an_image_stays_bounded() -> None:
    class Endless(io.RawIOBase):
        begun = False

        def read(self, size: int = -1) -> bytes:
            head, self.begun = (b"" if self.begun else b"\xff\xd8\xff\xda\0\x02"), True
            return head + b"\0" * (1 << 22)

    with pytest.raises(UserError, match="over 256 MiB"):
        next(iter(StdinSource(Endless())))


def test_errors_name_the_item_and_the_cure(tmp_path: Path, video: Path) -> None:
    empty, noise, nothing = tmp_path / "empty.mp4", tmp_path / "noise.mp4", tmp_path / "nothing"
    empty.touch()
    noise.write_bytes(np.random.default_rng(0).bytes(5000))
    nothing.mkdir()
    save_images(tmp_path / "few", ["1.png"])
    cases = [
        (dict(source=tmp_path / "none.mp4"), "none.mp4 does not exist"),
        (dict(source=empty), "empty.mp4 cannot be opened"),
        (dict(source=noise), "noise.mp4 cannot be opened"),
        (dict(source=nothing), "nothing holds no images"),
        (dict(source=f"{tmp_path}/*.xyz"), "no image matches"),
        (dict(source=video, start=Start(30)), "beyond the end.*has 30 frames"),
        (dict(source=video, start=Start(seconds=1e9)), "beyond the end"),
        (dict(source=tmp_path / "few", start=Start(1)), "beyond the end"),
        (dict(source=video, stride=0), "stride 0"),
        (dict(source=video, fps=25.0), "--fps is for images"),
        (dict(source=tmp_path / "few", fps=float("nan")), "out of range"),
        (dict(source="99"), "webcam 99 cannot be opened"),
        (dict(source="0", start=Start(3)), "leave --start out"),
        (dict(source="http://127.0.0.1:9/x", stream_timeout=0.5), "stream http.* cannot be opened"),
        (dict(source="rtsp://127.0.0.1:9/x", stream_timeout=-1.0), "stream timeout"),
    ]  # fmt: skip
    for arguments, message in cases:
        with pytest.raises(UserError, match=message) as caught:
            list(open_source(**arguments))
        assert "\n" not in str(caught.value)


def test_damaged_image_is_named(tmp_path: Path) -> None:
    save_images(tmp_path, ["1.png", "2.png"])
    (tmp_path / "2.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    source = iter(open_source(tmp_path))
    next(source)
    with pytest.raises(UserError, match="2.png"):
        next(source)


def test_truncated_video_gives_what_it_has_or_an_error(tmp_path: Path) -> None:
    whole = tmp_path / "whole.avi"  # an index at its end, as in MP4, is not needed to play it
    writer = cv2.VideoWriter(str(whole), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25, (96, 64))
    for number in range(30):
        writer.write(numbered_frame(number))
    writer.release()
    data = whole.read_bytes()
    for share in (0.01, 0.3, 0.6, 0.95):
        cut = tmp_path / "cut.avi"
        cut.write_bytes(data[: int(len(data) * share)])
        try:
            found = numbers(open_source(cut))
        except UserError as error:
            assert "cut.avi" in str(error)
        else:
            assert found == [(i, i) for i in range(len(found))] and 0 < len(found) <= 30


# --- live sources ---------------------------------------------------------------------------------------------------


def test_slow_reader_gets_fresh_frames_and_the_rest_is_counted() -> None:
    frames = [numbered_frame(number) for number in range(60)]
    with serve([frames], interval=0.01) as address:
        source = LiveSource(address, timeout=0.5)
        seen = []
        for frame in source:
            seen.append(frame)
            time.sleep(0.05)
        source.close()
    assert source.live and source.total is None
    assert all(frame.number == read_number(frame.image) for frame in seen)  # dropped ones keep their number
    assert 3 <= len(seen) < 45
    assert source.dropped == source.received - len(seen) > 0


def test_broken_connection_is_made_again_even_in_another_size() -> None:
    first = [numbered_frame(number) for number in range(20)]
    half = jpeg(numbered_frame(99))[:300]
    cut_off = b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: 9999\r\n\r\n" + half
    second = [numbered_frame(number, 160, 128) for number in range(40, 60)]
    with serve([[*first, cut_off], second]) as address:
        source = LiveSource(address, timeout=1.5)
        seen = [(read_number(frame.image), frame.image.shape[:2]) for frame in source]
        source.close()
    assert source.reconnections == 1
    assert {shape for number, shape in seen if number < 20} == {(64, 96)}
    assert {shape for number, shape in seen if 40 <= number < 60} == {(128, 160)}


def test_stalled_stream_ends_within_its_timeout() -> None:
    with serve([[*[numbered_frame(number) for number in range(10)], 60.0]]) as address:
        source = LiveSource(address, timeout=1.0)
        begin = time.monotonic()
        assert len(list(source)) >= 1
        assert time.monotonic() - begin < 5.0
        source.close()


def test_stride_of_a_stream() -> None:
    with serve([[numbered_frame(number) for number in range(30)]]) as address:
        source = LiveSource(address, stride=5, timeout=0.5)
        assert {frame.number % 5 for frame in source} == {0}
        source.close()


def test_finished_video_behind_an_address_is_read_in_full(video: Path) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(video.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        source = open_source(f"http://127.0.0.1:{server.server_address[1]}/clip.mp4", stream_timeout=5)
        assert not source.live and source.total == 30
        assert numbers(source) == [(i, i) for i in range(30)]
        server.shutdown()
