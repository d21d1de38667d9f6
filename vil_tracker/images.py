"""Decoding pictures: they become H×W×3 uint8 RGB arrays here and nowhere else (videos: :mod:`vil_tracker.videos`).

One piece of code serves training, evaluation and video, so that a network trained on RGB never meets BGR. Headers are
read before pixels: an image that claims more than :data:`MAX_PIXELS` is refused before memory is spent on it.
"""

from __future__ import annotations

import io
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from vil_tracker.errors import UserError, atomic_write, mistaken_for
from vil_tracker.packed import read_file

log = logging.getLogger(__name__)

IMAGE_EXTENSIONS = frozenset(
    ".jpg .jpeg .jpe .jfif .png .apng .gif .bmp .dib .webp .tif .tiff .avif .jp2 .ppm .pgm .pbm .pnm".split()
)
MAX_PIXELS = 100_000_000  # 10,000 × 10,000: above any camera in use, 300 MB decoded


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key under which ``10.jpg`` follows ``9.jpg``."""
    parts = re.split(r"(\d+)", name)
    return tuple((1, int(part), part) if i % 2 else (0, 0, part) for i, part in enumerate(parts))


Range = tuple[float, float]


class ValueRange:
    """What values of pictures of more than 8 bits become black and white: the same ones for a whole sequence.

    They are the ``given`` ones, low and high, or else nearly the whole range of ``samples``, some pictures as decoded,
    or of the first picture without. What was chosen is said in a line with the sequence's ``name``, if there is one.
    """

    def __init__(
        self,
        given: Range | None = None,
        samples: Callable[[], Iterable[np.ndarray]] | None = None,
        name: str | None = None,
    ) -> None:
        self.given = self._chosen = given
        self._samples, self._name = samples, name

    def stretch(self, image: np.ndarray) -> np.ndarray:
        if self._chosen is None:
            pictures = [] if self._samples is None else [_opaque(p) for p in self._samples() if p.dtype != np.uint8]
            values = np.concatenate([p.ravel()[:: 1 + p.size // 200_000] for p in pictures or [image]])
            values = values[np.isfinite(values)] if values.size else values
            # Not the extremes, which are those of dead pixels.
            low, high = np.percentile(values, (0.1, 99.9)).tolist() if values.size else (0.0, 0.0)
            self._chosen = low, high
            if self._name is not None:
                log.warning(
                    "%s: %d-bit pictures, values from %.6g to %.6g shown as 0 to 255 (another range: --range LOW,HIGH)",
                    *(self._name, 8 * image.dtype.itemsize, low, high),
                )
        low, high = self._chosen
        scale = 255.0 / (high - low) if high > low else 1.0
        values = (np.nan_to_num(image.astype(np.float32 if image.itemsize < 4 else np.float64)) - low) * scale
        return np.clip(values + 0.5, 0, 255).astype(np.uint8)


def sample_pictures(
    items: Sequence[Any], read: Callable[[Any], np.ndarray] | None = None, count: int = 16
) -> Iterator[np.ndarray]:
    """Up to ``count`` pictures from all over a sequence of files, or of what ``read`` reads, as decoded; those that
    cannot be read are left out.
    """
    read = read or (lambda path: _decode(read_file(path), os.fspath(path)))
    for index in sorted(set(np.linspace(0, len(items) - 1, count).astype(int).tolist())):
        try:
            yield read(items[index])
        except (OSError, UserError):
            continue


def read_image(path: str | os.PathLike[str], values: ValueRange | None = None) -> np.ndarray:
    """Decode one image file, or one packed in its folder's archive, to (H, W, 3) uint8 RGB, upright as EXIF says.

    Grey images are repeated over three channels, alpha is dropped, and of an animation it is the first picture. More
    than 8 bits are stretched to 8: by the picture's own range, or by ``values``, the sequence's. UserError where the
    file is missing, is no image, is damaged, or exceeds :data:`MAX_PIXELS`.
    """
    try:
        data = read_file(path)
    except OSError as error:
        raise UserError(f"cannot read image {os.fspath(path)} ({error.strerror}): check the path") from error
    return decode_image(data, os.fspath(path), values)


def decode_image(data: bytes, name: str, values: ValueRange | None = None) -> np.ndarray:
    """Decode one image in memory, ``name`` in error messages, to (H, W, 3) uint8 RGB; raises as :func:`read_image`."""
    size = jpeg_size(data)
    if size is None:
        return to_rgb8(_decode(data, name), values)
    check_pixels(*size, f"image {name}")
    image = _decode_pixels(data, name, cv2.IMREAD_COLOR_RGB)  # a JPEG has neither alpha nor 16 bits; OpenCV turns it
    return image if values is None or values.given is None else values.stretch(image)


def _decode(data: bytes, name: str) -> np.ndarray:
    """An image as it is, upright: grey, BGR or BGRA; 8 or 16 bits or float."""
    orientation = _check_header(data, name)
    return turn(_decode_pixels(data, name, cv2.IMREAD_UNCHANGED), orientation)


def _decode_pixels(data: bytes, name: str, kind: int) -> np.ndarray:
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), kind)
    except cv2.error:
        image = None
    if image is None:
        raise UserError(f"image {name} is damaged or of an unsupported kind: open it in a viewer or save it again")
    return image


def turn(image: np.ndarray, orientation: int) -> np.ndarray:
    """An image (H, W, ...) upright, from its EXIF orientation (1 to 8; tag 0x0112 of CIPA DC-008)."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)
    rows, columns = (slice(None, None, -1 if orientation in turned else 1) for turned in ((3, 4, 7, 8), (2, 3, 6, 7)))
    return np.ascontiguousarray(image[rows, columns])


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


def _check_header(data: bytes, name: str) -> int:
    """Refuse oversized images by their header; returns the EXIF orientation that OpenCV leaves to us. Pillow only
    parses it here; no pixel is decoded.
    """
    orientation = 1
    try:
        with Image.open(io.BytesIO(data)) as header:
            width, height = header.size
            check_pixels(width, height, f"image {name}")
            # Looking for a PNG's EXIF chunk, Pillow decodes the picture; OpenCV turns TIFF files itself.
            if header.format != "TIFF" and (header.format != "PNG" or b"eXIf" in data):
                orientation = exif_orientation(header)
    except Image.DecompressionBombError as error:
        limit = f"over the limit of {MAX_PIXELS} pixels"
        raise UserError(f"image {name} is {limit} ({error}): scale it down first") from error
    except UserError:
        raise
    except Exception as error:  # of damaged files, Pillow's readers raise all kinds
        why = f" ({what})" if (what := mistaken_for(data)) else ""
        raise UserError(
            f"{name} is not an image that can be read{why}: give a JPEG, PNG, BMP, WebP or TIFF file"
        ) from error
    return orientation


def exif_orientation(image: Image.Image) -> int:
    """The EXIF orientation of an image that Pillow has opened, 1 to 8; 1, upright, where it says nothing sensible."""
    try:
        orientation = image.getexif().get(0x0112, 1)
    except Exception:  # a damaged note leaves the picture as it is
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def check_pixels(width: int, height: int, name: str, limit: int = MAX_PIXELS) -> None:
    """Raise UserError if a width × height picture has more than ``limit`` pixels."""
    if width * height > limit:
        raise UserError(f"{name} is {width}x{height}, over the limit of {limit} pixels: scale it down first")


def _opaque(image: np.ndarray) -> np.ndarray:
    return image[..., :-1] if image.ndim == 3 and image.shape[2] in (2, 4) else image


def to_rgb8(image: np.ndarray, values: ValueRange | None = None) -> np.ndarray:
    """Bring an image as OpenCV decodes it (grey, BGR or BGRA; 8 or 16 bits or float) to (H, W, 3) uint8 RGB."""
    image = _opaque(image)
    if image.dtype != np.uint8 or (values is not None and values.given is not None):
        image = (values or ValueRange()).stretch(image)
    image = np.ascontiguousarray(image)
    return cv2.cvtColor(image, cv2.COLOR_GRAY2RGB if image.ndim == 2 or image.shape[2] == 1 else cv2.COLOR_BGR2RGB)


def check_frame(frame: np.ndarray) -> None:
    """Raise UserError unless ``frame`` is (H, W, 3) uint8 with at least one pixel."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        found = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise UserError(f"a frame must be a numpy array (H, W, 3) of uint8 RGB, found {found}")
    if frame.size == 0:
        raise UserError(f"the frame has no pixels (shape {frame.shape}): check the source")


def write_image(path: str | os.PathLike[str], image: np.ndarray) -> None:
    """Write (H, W, 3) uint8 RGB to a file whose ending names the format, atomically; UserError where that cannot be."""
    suffix = Path(path).suffix.lower()
    if suffix not in IMAGE_EXTENSIONS:
        raise UserError(f"cannot write {os.fspath(path)}: end the name in one of {', '.join(sorted(IMAGE_EXTENSIONS))}")
    try:
        done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    except cv2.error:
        done = False
    if not done:
        raise UserError(f"cannot encode {os.fspath(path)} as {suffix[1:]}: choose another ending, such as .png")
    with atomic_write(path) as stream:
        stream.write(data.tobytes())
