"""Video files out: WebM (VP8, VP9) and MP4 (H.264), through an ffmpeg program where there is one, else OpenCV.

OpenCV's own encoder settings cannot be changed and are slow (VP9 far more than VP8). The ``video`` extra brings an
ffmpeg program (imageio-ffmpeg, run as a separate process), which adds H.264 and is several times faster.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np

from vil_tracker.errors import UserError

log = logging.getLogger(__name__)

CODECS = ("auto", "vp9", "vp8", "h264", "mp4v")
_ENCODERS = {  # codec: ffmpeg's arguments
    "vp9": "-c:v libvpx-vp9 -deadline realtime -cpu-used 7 -row-mt 1 -crf 30 -b:v 0",
    "vp8": "-c:v libvpx -deadline realtime -cpu-used 5 -crf 10 -b:v 6M",
    "h264": "-c:v libx264 -preset veryfast -crf 20 -movflags +faststart",
}
_FOURCC = {"vp9": "VP90", "vp8": "VP80", "mp4v": "mp4v"}
_SUFFIX = {"vp9": ".webm", "vp8": ".webm", "h264": ".mp4", "mp4v": ".mp4"}
_MIN_SIDE = 16  # encoders refuse smaller pictures


class Encoder(Protocol):
    """Takes (H, W, 3) uint8 RGB frames of one size."""

    def write(self, image: np.ndarray) -> None: ...

    def finish(self) -> None: ...

    def abandon(self) -> None: ...


@functools.lru_cache(maxsize=1)
def find_ffmpeg() -> str | None:
    """The ffmpeg program of the ``video`` extra, or the one on the search path, or None."""
    if importlib.util.find_spec("imageio_ffmpeg") is not None:
        import imageio_ffmpeg

        try:
            return imageio_ffmpeg.get_ffmpeg_exe()
        except RuntimeError:  # the package came without its program
            pass
    return shutil.which("ffmpeg")


@functools.lru_cache(maxsize=8)
def _has_encoder(program: str, codec: str) -> bool:
    name = _ENCODERS[codec].split()[1]
    try:
        listing = subprocess.run(
            [program, "-hide_banner", "-encoders"], capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return any(line.split()[1:2] == [name] for line in listing.stdout.splitlines())


def choose_codec(wanted: str = "auto") -> tuple[str, str | None]:
    """Settle the codec and the program that will encode it.

    Args:
        wanted: one of :data:`CODECS`. ``auto`` takes what browsers play: VP9 with ffmpeg at hand, else OpenCV's VP8.

    Returns:
        The codec, and the ffmpeg program or None for OpenCV.

    Raises:
        UserError: H.264 without an ffmpeg program that has it.
    """
    if wanted not in CODECS:
        raise UserError(f"there is no video codec {wanted!r}: choose one of {', '.join(CODECS)}")
    ffmpeg = find_ffmpeg()
    if wanted == "h264" and (ffmpeg is None or not _has_encoder(ffmpeg, "h264")):
        raise UserError("H.264 needs an ffmpeg program that has libx264: pip install 'vil-tracker[video]', or use vp9")
    for codec in ("vp9", "vp8") if wanted == "auto" else (wanted,):
        if codec in _ENCODERS and ffmpeg is not None and _has_encoder(ffmpeg, codec):
            return codec, ffmpeg
    if wanted != "auto":
        return wanted, None
    if _opencv_writes("vp8"):
        return "vp8", None
    log.warning("this OpenCV cannot write WebM, so the video is MPEG-4 Part 2, which players open but browsers do not")
    return "mp4v", None


@functools.lru_cache(maxsize=4)
def _opencv_writes(codec: str) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        writer = _open_opencv(Path(folder) / f"probe{_SUFFIX[codec]}", codec, 25.0, (32, 32))
        opened = writer.isOpened()
        writer.release()
    return opened


def _open_opencv(path: Path, codec: str, fps: float, size: tuple[int, int]) -> cv2.VideoWriter:
    with _without_stderr():
        return cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*_FOURCC[codec]), fps, size)


@contextlib.contextmanager
def _without_stderr() -> Iterator[None]:
    """OpenCV prints a line to the error stream for every WebM file that it opens, though nothing is wrong."""
    try:
        kept = os.dup(2)
    except OSError:  # closed already
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


class OpenCVEncoder:
    """Encodes with what OpenCV was built with."""

    def __init__(self, path: Path, codec: str, fps: float, size: tuple[int, int]) -> None:
        self._path = path
        self._frames = 0
        self._writer = _open_opencv(path, codec, fps, size)
        if not self._writer.isOpened():
            raise UserError(f"this OpenCV cannot write {codec} video: choose another --video-codec, or use --no-video")

    def write(self, image: np.ndarray) -> None:
        self._writer.write(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
        self._frames += 1
        if self._frames % 64 == 0:
            self._check_space()

    def _check_space(self) -> None:
        """OpenCV says nothing when a write fails, so a full disk has to be looked for."""
        if shutil.disk_usage(self._path.parent).free < 1 << 16:
            raise UserError(
                f"cannot write {self._path.name}: the disk is full; free some space or choose another folder"
            )

    def finish(self) -> None:
        self._check_space()
        self._writer.release()
        check = cv2.VideoCapture(str(self._path))
        complete = check.isOpened() and check.read()[0]
        check.release()
        if not complete:
            raise UserError(f"{self._path.name} could not be written in full: is the disk full? Try --no-video")

    def abandon(self) -> None:
        self._writer.release()


class FFmpegEncoder:
    """Pipes raw frames into an ffmpeg program."""

    def __init__(self, path: Path, codec: str, fps: float, size: tuple[int, int], program: str) -> None:
        self._path = path
        rate = Fraction(fps).limit_denominator(1001)  # 29.97… becomes 30000/1001
        command = [program, "-y", "-hide_banner", "-loglevel", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
        command += ["-s", f"{size[0]}x{size[1]}", "-r", f"{rate.numerator}/{rate.denominator}", "-i", "-", "-an"]
        # RGB is converted to the limited-range BT.601 that players assume of untagged video
        command += [*_ENCODERS[codec].split(), "-pix_fmt", "yuv420p", f"file:{path}"]
        self._errors = tempfile.TemporaryFile()
        try:
            # A group of its own: Ctrl-C reaches this process only, which then closes the file in order.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=os.name == "posix",
                creationflags=0x00000200 if os.name == "nt" else 0,  # CREATE_NEW_PROCESS_GROUP
            )
        except OSError as error:
            raise UserError(
                f"the ffmpeg program {program} does not start ({error.strerror}): use --no-video"
            ) from error

    def write(self, image: np.ndarray) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(image).data)
        except (BrokenPipeError, OSError) as error:
            raise self._failed() from error

    def finish(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.close()
        except OSError as error:
            raise self._failed() from error
        if self._process.wait() != 0:
            raise self._failed()
        self._errors.close()

    def _failed(self) -> UserError:
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"exit status {self._process.returncode}"
        return UserError(f"cannot write {self._path.name}: ffmpeg says {reason!r}; free some space or use --no-video")

    def abandon(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            try:
                self._process.stdin.close()
            except OSError:
                pass  # it was killed with frames still in the pipe
        self._errors.close()


class VideoSink:
    """A video file of one size, whatever the sizes of the frames.

    The first frame sets the size (rounded up to even numbers, as chroma subsampling needs, with the edge repeated). A
    later frame of another size is scaled to fit and padded with black.

    Args:
        folder, stem: where to write; the ending follows from the codec, see :attr:`path`.
        fps: frames per second, kept exactly (29.97 is written as 30000/1001 or 2997/100).
        codec: one of :data:`CODECS`.

    Raises:
        UserError: the codec cannot be written here.
    """

    def __init__(self, folder: Path, stem: str, fps: float, codec: str = "auto") -> None:
        self.codec, self._program = choose_codec(codec)
        self.path = folder / f"{stem}{_SUFFIX[self.codec]}"
        self._fps = fps
        self._size: tuple[int, int] = (0, 0)
        self._encoder: Encoder | None = None

    def write(self, image: np.ndarray) -> None:
        """Append one (H, W, 3) uint8 RGB frame."""
        if self._encoder is None:
            height, width = image.shape[:2]
            self._size = (max(width + width % 2, _MIN_SIDE), max(height + height % 2, _MIN_SIDE))
            if self._program is None:
                self._encoder = OpenCVEncoder(self.path, self.codec, self._fps, self._size)
            else:
                self._encoder = FFmpegEncoder(self.path, self.codec, self._fps, self._size, self._program)
        self._encoder.write(fit(image, *self._size))

    def finish(self) -> None:
        """Complete the file. Without a single frame there is none."""
        if self._encoder is not None:
            self._encoder.finish()

    def abandon(self) -> None:
        """Let go of the file without completing it."""
        if self._encoder is not None:
            self._encoder.abandon()


def fit(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Bring (H, W, 3) to height × width: same scale and black bars, or one repeated row and column at most."""
    h, w = image.shape[:2]
    if (h, w) == (height, width):
        return image
    if 0 <= height - h <= 1 and 0 <= width - w <= 1:
        return cv2.copyMakeBorder(image, 0, height - h, 0, width - w, cv2.BORDER_REPLICATE)
    scale = min(width / w, height / h)
    inner_w, inner_h = max(1, min(width, round(w * scale))), max(1, min(height, round(h * scale)))
    small = cv2.resize(image, (inner_w, inner_h), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    left, top = (width - inner_w) // 2, (height - inner_h) // 2
    return cv2.copyMakeBorder(small, top, height - inner_h - top, left, width - inner_w - left, cv2.BORDER_CONSTANT)
