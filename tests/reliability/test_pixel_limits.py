"""Headers that claim more pixels than the limit are refused before memory is spent on them."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from faulty_files import encoded, film_claiming, mp4_claiming, png_claiming, with_bytes

from vil_tracker import images, videos
from vil_tracker.data.sequence import ImageFrames, VideoFrames
from vil_tracker.errors import UserError
from vil_tracker.images import MAX_PIXELS, decode_image
from vil_tracker.io.files import StdinSource
from vil_tracker.videos import VideoReader


def claiming(kind: str, width: int, height: int) -> bytes:
    """A small picture whose header claims a size; every other byte is as it was."""
    if kind == "png":
        return png_claiming(width, height)
    data = encoded(f".{kind}")
    if kind == "jpg":
        return with_bytes(data, data.find(b"\xff\xc0") + 5, struct.pack(">HH", height, width))
    if kind == "bmp":
        return with_bytes(data, 18, struct.pack("<ii", width, height))
    if kind == "webp":
        if data[12:16] == b"VP8 ":
            return with_bytes(data, 26, struct.pack("<HH", width, height))
        assert data[12:16] == b"VP8L"  # 14 bits each, minus 1
        rest = struct.unpack("<I", data[21:25])[0] >> 28 << 28
        return with_bytes(data, 21, struct.pack("<I", rest | (height - 1) << 14 | (width - 1)))
    assert kind == "tif" and data[:2] == b"II"
    start = struct.unpack("<I", data[4:8])[0]
    for entry in range(struct.unpack("<H", data[start : start + 2])[0]):
        place = start + 2 + 12 * entry
        tag = struct.unpack("<H", data[place : place + 2])[0]
        if tag in (256, 257):
            value = width if tag == 256 else height
            data = with_bytes(data, place + 2, struct.pack("<HII", 4, 1, value))
    return data


SIZES = {"png": (60_000, 60_000), "jpg": (60_000, 60_000), "bmp": (60_000, 60_000), "webp": (16_383, 16_383),
         "tif": (60_000, 60_000)}  # fmt: skip


@pytest.fixture
def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images.cv2, "imdecode", lambda *_: pytest.fail("the picture was decoded"))


@pytest.mark.parametrize("kind", list(SIZES))
@pytest.mark.parametrize("way", ["decode", "folder", "pipe"])
def test_pictures_are_refused_by_their_header(kind: str, way: str, tmp_path: Path, no_decoding) -> None:
    data = claiming(kind, *SIZES[kind])
    with warnings.catch_warnings(), pytest.raises(UserError, match="pixels.*scale it down first"):
        warnings.simplefilter("error")
        if way == "decode":
            decode_image(data, "a")
        elif way == "folder":
            (tmp_path / "a.png").write_bytes(data)
            ImageFrames((tmp_path / "a.png",))[0]
        elif kind in ("png", "jpg"):
            list(StdinSource(io.BytesIO(data)))  # type: ignore[arg-type]
        else:
            pytest.skip("pipes carry JPEG and PNG only")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limit_itself(no_decoding, monkeypatch: pytest.MonkeyPatch) -> None:
    side = int(MAX_PIXELS**0.5)
    assert side * side == MAX_PIXELS
    with pytest.raises(UserError, match="over the limit"):
        decode_image(png_claiming(side + 1, side), "a")
    monkeypatch.setattr(images.cv2, "imdecode", lambda *_: np.zeros((2, 2, 3), np.uint8))
    decode_image(png_claiming(side, side), "a")


def test_a_film_is_refused_by_its_header(tmp_path: Path) -> None:
    for size in ((12_000, 12_000), (16_000, 16_000), (60_000, 60_000), (65_535, 1_600)):
        path = tmp_path / "huge.avi"
        path.write_bytes(film_claiming(tmp_path, *size))
        with pytest.raises(UserError, match=r"huge\.avi"):
            with VideoReader(path) as reader:
                next(iter(reader), None)
                raise UserError(f"{path} gave no frame")
        with pytest.raises(UserError):
            VideoFrames(path, 3)[0]


def test_a_container_that_lies_about_its_pictures_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "lying.mp4").write_bytes(mp4_claiming(tmp_path, 60_000, 60_000))
    try:
        with VideoReader(tmp_path / "lying.mp4") as reader:
            assert all(frame.shape == (64, 96, 3) for frame in reader)
    except UserError as error:
        assert "lying.mp4" in str(error)


def test_a_film_that_grows_on_the_way_is_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Pictures inside a stream may change their size; the decoder refuses each that is too large."""
    videos.log.parent.propagate = True
    path = tmp_path / "growing.mjpeg"
    pictures = [np.full((height, 96, 3), 90, np.uint8) for height in (64, 64, 64, 128, 128)]
    path.write_bytes(b"".join(cv2.imencode(".jpg", picture)[1].tobytes() for picture in pictures))
    with VideoReader(path, max_pixels=96 * 64) as reader:
        assert [image.shape for image in reader] == [(64, 96, 3)] * 3
    assert "growing.mjpeg: damaged at frame 3" in caplog.text
    with VideoReader(path) as reader:
        assert [image.shape[0] for image in reader] == [64, 64, 64, 128, 128]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory is counted in other units elsewhere")
def test_memory_stays_small_whatever_the_headers_claim(tmp_path: Path) -> None:
    """In a process of its own: the peak of resident memory before and after twenty claims of 10 GB."""
    for number, kind in enumerate(list(SIZES) * 4):
        (tmp_path / f"{number}.{kind}").write_bytes(claiming(kind, *SIZES[kind]))
    (tmp_path / "a.avi").write_bytes(film_claiming(tmp_path, 16_000, 16_000))
    code = (
        "import sys, resource; from pathlib import Path\n"
        "from vil_tracker.images import decode_image, read_image\n"
        "from vil_tracker.videos import VideoReader\n"
        "from vil_tracker.errors import UserError\n"
        "import cv2, numpy; decode_image(cv2.imencode('.png', numpy.zeros((9, 9, 3), 'uint8'))[1].tobytes(), 'a')\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "before = peak()\n"
        "for path in sorted(Path(sys.argv[1]).iterdir()):\n"
        "    try: (next(iter(VideoReader(path)), None) if path.suffix == '.avi' else read_image(path))\n"
        "    except UserError: pass\n"
        "print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 50_000  # kilobytes


def test_the_reader_of_numbers_is_the_decoder_itself() -> None:
    """The limit is checked on the size that decoding would give, not on a field of our own parsing."""
    image = np.zeros((17, 29, 3), np.uint8)
    for kind in ("png", "jpg", "bmp", "webp", "tif"):
        assert decode_image(cv2.imencode(f".{kind}", image)[1].tobytes(), "a").shape == (17, 29, 3)
