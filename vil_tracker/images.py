"""Decoding: images and videos become H×W×3 uint8 RGB arrays here and nowhere else.

One piece of code serves training, evaluation and video, so that a network trained on RGB never meets BGR. Headers are
read before pixels: an image or video that claims more than :data:`MAX_PIXELS` is refused before memory is spent on it.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from vil_tracker.errors import UserError, atomic_write

IMAGE_EXTENSIONS = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
VIDEO_EXTENSIONS = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".ts", ".wmv", ".flv"})
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


class VideoReader:
    """A video file as RGB frames.

    Attributes:
        fps: frames per second as the container states it (25.0 where it states none).
        frame_count: frames that the container claims; the true number may be lower in a damaged file.
        width, height: size of the frames in pixels.

    Raises:
        UserError: the file is missing, holds no decodable video, or exceeds :data:`MAX_PIXELS`.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)
        if not Path(path).is_file():
            raise UserError(f"video {self.path} does not exist: check the path")
        self._capture = cv2.VideoCapture(self.path)
        if not self._capture.isOpened():
            raise UserError(
                f"video {self.path} cannot be opened, it is damaged, empty or of an unsupported format: "
                "see whether a player shows it, or convert it to MP4"
            )
        self.width = int(self._capture.get(cv2.CAP_PROP_FRAME_WIDTH))
        self.height = int(self._capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        try:
            check_pixels(self.width, self.height, f"video {self.path}")
        except UserError:
            self.close()
            raise
        fps = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.fps = fps if 0.01 < fps < 10_000 else 25.0
        self.frame_count = max(int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        self._next = 0

    def read(self) -> np.ndarray | None:
        """Decode the next frame, (H, W, 3) uint8 RGB, or return None at the end."""
        done, frame = self._capture.read()
        if not done or frame is None:
            return None
        self._next += 1
        check_pixels(frame.shape[1], frame.shape[0], f"video {self.path}")  # it may grow on the way
        return to_rgb8(frame)

    def skip(self) -> bool:
        """Pass over the next frame without converting it; False at the end."""
        done = self._capture.grab()
        self._next += int(done)
        return done

    def seek(self, index: int) -> None:
        """Go to frame ``index`` (zero-based), exactly.

        Containers seek to key frames and some builds then count wrongly, so a seek forward decodes and a seek
        backward starts again from the first frame.
        """
        if index < self._next:
            self._capture.release()
            self._capture = cv2.VideoCapture(self.path)
            self._next = 0
        while self._next < index and self.skip():
            pass

    def __iter__(self) -> Iterator[np.ndarray]:
        while (frame := self.read()) is not None:
            yield frame

    def close(self) -> None:
        self._capture.release()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
