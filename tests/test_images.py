"""Pictures from bytes: sizes read from headers, and colours."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from vil_tracker.errors import UserError
from vil_tracker.images import decode_image, jpeg_size

RNG = np.random.default_rng(0)
PICTURE = cv2.resize(RNG.integers(0, 256, (6, 9, 3), dtype=np.uint8), (90, 61), interpolation=cv2.INTER_CUBIC)


def jpeg(mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PICTURE).convert(mode).save(stream, "JPEG", **options)
    return stream.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"exif": b"Exif" + bytes(3000)}, {"comment": b"x" * 500}]
)
def test_size_of_a_jpeg_as_pillow_reads_it(mode: str, options: dict[str, object]) -> None:
    assert jpeg_size(jpeg(mode, **options)) == (90, 61)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_colours_of_a_jpeg(mode: str) -> None:
    data = jpeg(mode, quality=95)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert np.abs(decode_image(data, "x").astype(int) - expected).max() <= 3  # two builds of libjpeg


def test_what_is_no_plain_jpeg_is_left_to_pillow() -> None:
    png = cv2.imencode(".png", PICTURE)[1].tobytes()
    whole = jpeg()
    for data in (
        b"",
        b"\xff\xd8",
        png,
        whole[:8],
        b"\xff\xd8\xff\xd9" + whole,
        b"\xff\xd8\xff\xe0\x00\x00" + whole[6:],
    ):
        assert jpeg_size(data) is None
    assert np.array_equal(decode_image(png, "x"), PICTURE[..., ::-1])


@pytest.mark.parametrize("length", [3, 30, 200, 600])
def test_a_truncated_jpeg_is_an_error_or_a_picture_of_the_right_size(length: int) -> None:
    try:
        image = decode_image(jpeg(quality=95)[:length], "x.jpg")
    except UserError as error:
        assert "x.jpg" in str(error)
    else:
        assert image.shape == (61, 90, 3)
