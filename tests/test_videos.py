"""Reading video: the number, the time and the picture of every frame, whatever the file."""

from __future__ import annotations

import http.server
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tracking_fakes import numbered_frame, read_number
from video_files import RECIPES, shown, write_file

from vil_tracker import videos
from vil_tracker.data.readers.video_folder import video_sequence
from vil_tracker.errors import UserError
from vil_tracker.io.files import open_source
from vil_tracker.io.source import parse_start
from vil_tracker.videos import VideoReader, count_frames

TURNS = [(1, 0, 0, 1), (0, 1, -1, 0), (-1, 0, 0, -1), (0, -1, 1, 0), (-1, 0, 0, 1), (1, 0, 0, -1), (0, 1, 1, 0)]


def read_all(path: Path) -> tuple[list[int], list[float]]:
    """The painted numbers, and the times."""
    with VideoReader(path) as reader:
        found = [(read_number(image), reader.time) for image in reader]
    return [number for number, _ in found], [time for _, time in found]


@pytest.mark.parametrize("kind", RECIPES)
def test_every_kind_of_file(tmp_path: Path, kind: str) -> None:
    """Constant rate: each frame once, in order, at its time, its picture as it was painted."""
    recipe = RECIPES[kind]
    path = write_file(tmp_path, recipe, [number / 25 for number in range(20)])
    numbers, times = read_all(path)
    assert numbers == list(range(20))
    np.testing.assert_allclose(times, np.arange(20) / 25, atol=1e-3)
    with VideoReader(path) as reader:
        assert (reader.width, reader.height) == (96, 64)
        for number, image in enumerate(reader):
            assert np.abs(image.astype(int) - numbered_frame(number)).mean() < 8


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(data=st.data())
def test_number_time_and_picture_of_any_file(data: st.DataObject) -> None:
    """Random codec, rate, pattern of a variable rate, turn, aspect, size and length."""
    recipe = RECIPES[data.draw(st.sampled_from(sorted(RECIPES)))]
    rate = data.draw(st.sampled_from([Fraction(25), Fraction(30000, 1001), Fraction(24000, 1001), Fraction(50)]))
    count = data.draw(st.integers(1, 24))
    steps = [1] * count
    if recipe.clock and recipe.encoder != "mpeg2video":  # frames that last one to five steps
        steps = data.draw(st.lists(st.integers(1, 5), min_size=count, max_size=count))
    times = [float(sum(steps[:number]) / rate) for number in range(count)]
    size = (96, 64) if recipe.interlaced else data.draw(st.sampled_from([(96, 64), (98, 66), (160, 34)]))
    turn = data.draw(st.sampled_from(TURNS)) if recipe.suffix in (".mp4", ".mov", ".mkv") else TURNS[0]
    aspect = data.draw(st.sampled_from([Fraction(1), Fraction(4, 3)])) if recipe.suffix == ".mp4" else Fraction(1)
    with tempfile.TemporaryDirectory() as folder:
        path = write_file(Path(folder), recipe, times, rate=rate, size=size, aspect=aspect, matrix=turn)
        with VideoReader(path) as reader:
            found = [(image, reader.time) for image in reader]
            width, height = size if turn[0] else size[::-1]
            assert (reader.width, reader.height) == (width, height)
            assert reader.pixel_aspect == (aspect if turn[0] else 1 / aspect)
    assert len(found) == count
    np.testing.assert_allclose([time for _, time in found], times, atol=1e-3)
    for number, (image, _) in enumerate(found):
        expected = shown(numbered_frame(number, *size), turn)
        assert image.shape == expected.shape and np.abs(image.astype(int) - expected).mean() < 16


def test_seek_is_exact_there_and_back(tmp_path: Path) -> None:
    path = write_file(tmp_path, RECIPES["h264 mp4, B-frames"], [number / 25 for number in range(30)])
    with VideoReader(path) as reader:
        for index in (7, 8, 25, 3, 0, 29):
            reader.seek(index)
            image = reader.read()
            assert image is not None and read_number(image) == index and reader.time == pytest.approx(index / 25)
        assert reader.read() is None and reader.read() is None


def test_start_by_time_in_a_video_of_variable_rate(tmp_path: Path) -> None:
    """30, then 10, then 30 frames a second."""
    times = [*(n / 30 for n in range(30)), *(1 + n / 10 for n in range(30)), *(4 + n / 30 for n in range(30))]
    path = write_file(tmp_path, RECIPES["h264 mp4"], times, rate=Fraction(30))
    with VideoReader(path) as reader:
        seen = [reader.time for _ in reader]
    assert seen[29] == pytest.approx(29 / 30, abs=1e-3) and seen[59] == pytest.approx(3.9, abs=1e-3)
    for text, number in (("1.0s", 30), ("3.95s", 60), ("3.9s", 59), ("00:04.5", 75)):
        source = open_source(path, start=parse_start(text))
        first = next(iter(source))
        source.close()
        assert first.number == read_number(first.image) == number


def cut_by_an_edit_list(path: Path, media_time: int) -> None:
    """Let an MP4 begin later, as a cut without encoding does: frames before stay in the file and are not shown."""
    data = path.read_bytes()
    at = data.find(b"elst")
    entry = int.from_bytes(data[at + 12 : at + 16], "big")
    scale = int.from_bytes(data[data.find(b"mvhd") + 16 :][:4], "big")
    clock = int.from_bytes(data[data.find(b"mdhd") + 16 :][:4], "big")
    shorter = (entry - media_time * scale // clock).to_bytes(4, "big")
    old = int.from_bytes(data[at + 16 : at + 20], "big")
    path.write_bytes(data[: at + 12] + shorter + (old + media_time).to_bytes(4, "big") + data[at + 20 :])


def test_frames_are_counted_not_believed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file cut without encoding: its header counts frames that nobody shows."""
    videos.log.parent.propagate = True
    path = write_file(tmp_path, RECIPES["h264 mp4"], [number / 25 for number in range(30)])
    cut_by_an_edit_list(path, 10 * 512)
    with VideoReader(path) as reader:
        assert reader.frames_claimed == 30
    numbers, times = read_all(path)
    assert numbers == list(range(10, 30)) and times[0] == 0 and times[19] == pytest.approx(19 / 25)
    assert count_frames(path) == 20 and not caplog.records
    truth = tmp_path / "video.txt"
    truth.write_text("1,2,3,4\n" * 20)
    sequence = video_sequence(path, truth)
    assert len(sequence) == 20 and read_number(sequence.frames[19]) == 29


@contextmanager
def served(path: Path, headers: Callable[[bytes], tuple[dict[str, str], bytes]]) -> Iterator[str]:
    """A file behind an address that knows no ranges; ``headers`` says which header goes with which of its bytes."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            stated, body = headers(path.read_bytes())
            self.send_response(200)
            for name, value in stated.items():
                self.send_header(name, value)
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/{path.name}"
        finally:
            server.shutdown()


def whole(data: bytes) -> tuple[dict[str, str], bytes]:
    return {"Content-Length": str(len(data))}, data


def in_chunks(data: bytes) -> tuple[dict[str, str], bytes]:
    """The server does not say how long the file is, only where it ends."""
    return {"Transfer-Encoding": "chunked"}, b"%x\r\n%b\r\n0\r\n\r\n" % (len(data), data)


@pytest.mark.parametrize("way", [whole, in_chunks])
def test_a_recording_over_http_ends(tmp_path: Path, way: Callable[[bytes], tuple[dict[str, str], bytes]]) -> None:
    """A browser's recording states no duration."""
    path = write_file(tmp_path, RECIPES["vp9 webm"], [number / 25 for number in range(20)])
    data = path.read_bytes().replace(b"\x44\x89", b"\xec\x87", 1)  # the duration becomes empty space
    path.write_bytes(data)
    with served(path, way) as address:
        source = open_source(address, stream_timeout=3)
        assert not source.live
        assert [read_number(frame.image) for frame in source] == list(range(20))
        source.close()


def test_a_broken_connection_is_told_from_the_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    videos.log.parent.propagate = True
    path = write_file(tmp_path, RECIPES["vp9 webm"], [number / 25 for number in range(60)])
    half = lambda data: ({"Content-Length": str(len(data))}, data[: len(data) // 2])  # noqa: E731
    with served(path, half) as address:
        source = open_source(address, stream_timeout=3)
        numbers = [read_number(frame.image) for frame in source]
        source.close()
    assert 10 < len(numbers) < 60 and numbers == list(range(len(numbers)))
    assert f"cannot be read beyond frame {len(numbers)}" in caplog.text


def test_an_index_at_the_end_behind_a_server_that_cannot_jump(tmp_path: Path) -> None:
    path = write_file(tmp_path, RECIPES["h264 mp4"], [number / 25 for number in range(20)])
    with served(path, whole) as address:
        try:
            numbers = [read_number(frame.image) for frame in open_source(address, stream_timeout=3)]
        except UserError as error:
            assert "download it first" in str(error) and "\n" not in str(error)
        else:
            assert numbers == list(range(20))


def test_damage_in_the_middle_is_named_and_the_rest_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    videos.log.parent.propagate = True
    path = write_file(tmp_path, RECIPES["prores mov"], [number / 25 for number in range(20)])
    data = bytearray(path.read_bytes())
    begin = 0
    for _ in range(6):
        begin = data.index(b"icpf", begin) + 4
    data[begin - 4 : begin + 200] = bytes(204)  # the header of the sixth picture
    path.write_bytes(data)
    numbers, times = read_all(path)
    assert numbers == [0, 1, 2, 3, 4, *range(6, 20)] and times[5] == pytest.approx(6 / 25)
    assert caplog.text.count("damaged at frame 5") == 1


@pytest.mark.parametrize("name", [b"B\xe4r.mp4", "视频: 1.mp4".encode(), b"-x%d[1].mp4"])
def test_any_file_name(tmp_path: Path, name: bytes) -> None:
    path = write_file(tmp_path, RECIPES["h264 mp4"], [0.0, 0.04, 0.08])
    other = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    try:
        path.rename(other)
    except OSError:
        pytest.skip("the file system takes no such name")
    assert read_all(other)[0] == [0, 1, 2]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe(tmp_path: Path) -> None:
    data = write_file(tmp_path, RECIPES["mpeg2 ts"], [number / 25 for number in range(12)]).read_bytes()
    pipe = tmp_path / "pipe.ts"
    os.mkfifo(pipe)
    threading.Thread(target=lambda: pipe.write_bytes(data), daemon=True).start()
    assert read_all(pipe)[0] == list(range(12))


def test_what_is_no_video_is_one_line(tmp_path: Path) -> None:
    text = tmp_path / "x.txt"
    text.write_text("letters of a text, not a picture\n" * 160)
    song = tmp_path / "song.m4a"
    with av.open(str(song), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=48000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 48000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    playlist = tmp_path / "list.m3u8"
    playlist.write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n#EXT-X-ENDLIST\n")
    for path, message in ((text, "text, not a video|cannot be opened"), (song, "no video"), (playlist, "cannot be")):
        with pytest.raises(UserError, match=message) as caught:
            list(open_source(path))
        assert "\n" not in str(caught.value)


def test_frames_over_the_limit_are_refused_before_they_are_decoded(tmp_path: Path) -> None:
    path = write_file(tmp_path, RECIPES["h264 mp4"], [0.0, 0.04])
    with pytest.raises(UserError, match="96x64, over the limit of 6143 pixels"):
        VideoReader(path, max_pixels=96 * 64 - 1)
    assert count_frames(path) == 2
