"""Decoding pictures: they become H×W×3 uint8 RGB arrays here and nowhere else (videos: :mod:`vil_tracker.videos`).

One piece of code serves training, evaluation and video, so that a network trained on RGB never meets BGR. Headers are
read before pixels: an image that claims more than :data:`MAX_PIXELS` is refused before memory is spent on it.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from vil_tracker.errors import UserError, atomic_write

IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
MAX_PIXELS = 100_000_000  # 10,000 × 10,000: above any camera in use, 300 MB decoded


def read_image(path: str | os.PathLike[str]) -> np.ndarray:
    """Decode one image file to (H, W, 3) uint8 RGB.

    Grey images are repeated over three channels, 16-bit ones scaled to 8 bits, alpha dropped.

    Raises:
        UserError: the file is missing, is no image, is damaged, or exceeds :data:`MAX_PIXELS`.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"cannot read image {os.fspath(path)} ({error.strerror}): check the path") from error
    return decode_image(data, os.fspath(path))


def decode_image(data: bytes, name: str) -> np.ndarray:
    """Decode one image held in memory to (H, W, 3) uint8 RGB; ``name`` stands in the error messages.

    Raises:
        UserError: as :func:`read_image`.
    """
    size = jpeg_size(data)
    if size is not None:
        check_pixels(*size, f"image {name}")
    else:
        _check_header(data, name)
    kind = cv2.IMREAD_UNCHANGED if size is None else cv2.IMREAD_COLOR_RGB  # a JPEG has neither alpha nor 16 bits
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), kind | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:
        image = None
    if image is None:
        raise UserError(f"image {name} is damaged or of an unsupported kind: open it in a viewer or save it again")
    return to_rgb8(image) if size is None else image


def jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG by its frame header (ITU-T T.81, B.2.2), or None where none is found at once.

    Pillow takes a third of the time of decoding a small frame for it.
    """
    position = 2
    while data[:2] == b"\xff\xd8" and data[position : position + 1] == b"\xff" and len(data) >= position + 9:
        marker, length = data[position + 1], int.from_bytes(data[position + 2 : position + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = (int.from_bytes(data[position + at : position + at + 2], "big") for at in (5, 7))
            return (width, height) if width and height and data[position + 4] == 8 else None  # else Pillow's business
        if marker in (0xD9, 0xDA) or length < 2:
            return None
        position += 2 + length
    return None


def _check_header(data: bytes, name: str) -> None:
    """Refuse oversized images by their header. Pillow only parses it here; no pixel is decoded."""
    try:
        with Image.open(io.BytesIO(data)) as header:
            width, height = header.size
    except Image.DecompressionBombError as error:
        limit = f"over the limit of {MAX_PIXELS} pixels"
        raise UserError(f"image {name} is {limit} ({error}): scale it down first") from error
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, EOFError) as error:
        raise UserError(f"{name} is not an image that can be read: give a JPEG, PNG, BMP, WebP or TIFF file") from error
    check_pixels(width, height, f"image {name}")


def check_pixels(width: int, height: int, name: str) -> None:
    """Raise UserError if a width × height picture exceeds :data:`MAX_PIXELS`."""
    if width * height > MAX_PIXELS:
        raise UserError(f"{name} is {width}x{height}, over the limit of {MAX_PIXELS} pixels: scale it down first")


def to_rgb8(image: np.ndarray) -> np.ndarray:
    """Bring an image as OpenCV decodes it (grey, BGR or BGRA; 8 or 16 bits or float) to (H, W, 3) uint8 RGB."""
    if image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    elif image.dtype != np.uint8:
        scale = 255.0 if np.nanmax(image, initial=0.0) <= 1.0 else 1.0
        image = np.clip(np.nan_to_num(image) * scale, 0, 255).astype(np.uint8)
    if image.ndim == 2 or image.shape[2] == 1:
        return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    if image.shape[2] == 2:  # grey with alpha
        return cv2.cvtColor(np.ascontiguousarray(image[..., 0]), cv2.COLOR_GRAY2RGB)
    return cv2.cvtColor(image, cv2.COLOR_BGRA2RGB if image.shape[2] == 4 else cv2.COLOR_BGR2RGB)


def check_frame(frame: np.ndarray) -> None:
    """Raise UserError unless ``frame`` is (H, W, 3) uint8 with at least one pixel."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        found = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise UserError(f"a frame must be a numpy array (H, W, 3) of uint8 RGB, found {found}")
    if frame.size == 0:
        raise UserError(f"the frame has no pixels (shape {frame.shape}): check the source")


def write_image(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB to a file whose ending names the format, atomically.

    Raises:
        UserError: unknown ending, or the place cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in IMAGE_EXTENSIONS:
        raise UserError(f"cannot write {os.fspath(path)}: end the name in one of {', '.join(sorted(IMAGE_EXTENSIONS))}")
    done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise UserError(f"cannot encode {os.fspath(path)} as {suffix[1:]}: choose another ending, such as .png")
    with atomic_write(path) as stream:
        stream.write(data.tobytes())
