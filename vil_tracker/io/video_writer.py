"""Video files out, through PyAV: VP9 in WebM and H.264 in MP4, with the source's times and, where it fits, its sound.

Both containers are written so that a file cut off at any moment plays up to about a second before.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.codec
import av.error
import cv2
import numpy as np

from vil_tracker.errors import UserError, reason
from vil_tracker.io.source import Sound

log = logging.getLogger(__name__)

CODECS = ("auto", "vp9", "h264")
_MIN_SIDE = 16  # encoders refuse smaller pictures


@dataclass(frozen=True)
class _Kind:
    """How one codec is written."""

    encoders: tuple[str, ...]  # FFmpeg's names, best first
    suffix: str  # ending of the file
    options: dict[str, str]  # the encoder's
    container: dict[str, str]  # the file's: pieces of a second, each complete on the disk as soon as it is written
    sounds: frozenset[str]  # audio codecs that players expect in such a file


_KINDS = {
    "vp9": _Kind(
        ("libvpx-vp9",),
        ".webm",
        {"deadline": "realtime", "cpu-used": "7", "row-mt": "1", "crf": "30", "b": "0", "lag-in-frames": "0"},
        {"cluster_time_limit": "1000", "flush_packets": "1"},
        frozenset({"opus", "vorbis"}),
    ),
    "h264": _Kind(
        ("libx264", "h264"),
        ".mp4",
        {"preset": "veryfast", "crf": "20", "rc-lookahead": "10", "bf": "0"},
        {"movflags": "hybrid_fragmented", "frag_duration": "1000000", "flush_packets": "1"},
        frozenset({"aac", "mp3", "ac3", "eac3", "alac", "opus", "flac"}),
    ),
}


def _encoder(codec: str) -> str | None:
    for name in _KINDS[codec].encoders:
        with contextlib.suppress(av.codec.codec.UnknownCodecError):
            av.codec.Codec(name, "w")
            return name
    return None


def choose_codec(wanted: str = "auto", sound: Sound | None = None) -> str:
    """Settle the codec: ``auto`` is VP9, which every browser plays, or H.264 where only an MP4 file takes the sound.
    UserError where there is none such, or this build of PyAV has no encoder for it.
    """
    if wanted not in CODECS:
        raise UserError(f"there is no video codec {wanted!r}: choose one of {', '.join(CODECS)}")
    choices = ["vp9", "h264"] if wanted == "auto" else [wanted]
    if wanted == "auto" and sound is not None and (name := _sound_codec(sound)):
        choices.sort(key=lambda codec: name not in _KINDS[codec].sounds)
    if codec := next(filter(_encoder, choices), None):
        return codec
    raise UserError(f"this build of PyAV cannot encode {' or '.join(choices)}: pip install av, or use --no-video")


def _sound_codec(sound: Sound) -> str | None:
    with contextlib.suppress(av.error.FFmpegError, OSError), av.open(f"file:{sound.path}") as container:
        for stream in container.streams.audio:
            return str(stream.codec_context.name)
    return None


class _SoundTrack:
    """Copies a source's sound into a file to which nothing has been written yet, packet by packet with the pictures.

    ``start`` is the seconds from the source's first picture to the first one that is written.
    """

    def __init__(self, sound: Sound, kind: _Kind, output: Any, start: float) -> None:
        self._output, self._begin = output, sound.origin + start
        self._input = av.open(f"file:{sound.path}")
        self._packets: Iterator[Any] = iter(())
        self._waiting: Any = None
        self._last = -1  # time of the last packet copied, in its stream's units
        for stream in self._input.streams.audio[:1]:
            name = stream.codec_context.name
            if name not in kind.sounds:
                log.warning("the sound (%s) does not fit into a %s file and is left out", name, kind.suffix)
                continue
            self._copy = output.add_stream_from_template(stream)
            self._packets = self._input.demux(stream)

    def write_until(self, seconds: float) -> None:
        """Copy what is heard within so many seconds from the first picture."""
        while (packet := self._waiting or self._next()) is not None:
            self._waiting = None
            if packet.pts is None:
                continue  # the empty one at the end
            at = float(packet.pts * packet.time_base) - self._begin
            if at >= seconds:
                self._waiting = packet
                return
            ticks = round(at / packet.time_base)
            if ticks > self._last and at >= 0:  # a damaged file's clock may go back
                self._last = packet.pts = packet.dts = ticks
                packet.stream = self._copy
                self._output.mux(packet)

    def _next(self) -> Any:
        """The source's next packet; none after a fault, since a damaged sound is no reason to end the pictures."""
        try:
            return next(self._packets, None)
        except (av.error.FFmpegError, OSError) as error:
            log.warning("the sound cannot be read any further (%s)", reason(error))
            self._packets = iter(())
            return None

    def close(self) -> None:
        self._input.close()


class VideoSink:
    """A video file of one size, whatever the sizes of the frames; UserError where the codec cannot be written here.

    The first frame sets the size (rounded up to even numbers, as chroma subsampling needs, with the edge repeated). A
    later frame of another size is scaled to fit and padded with black.

    Args:
        folder, stem: where to write; the ending follows from the codec, see :attr:`path`.
        fps: frames per second that the header states; also the frames' times where :meth:`write` is given none.
        codec: one of :data:`CODECS`.
        pixel_aspect: width of a frame's pixel divided by its height; the file's are square.
        sound: what is to be heard; needs the times of the frames in the source.
    """

    def __init__(
        self,
        folder: Path,
        stem: str,
        fps: float,
        codec: str = "auto",
        *,
        pixel_aspect: Fraction = Fraction(1),
        sound: Sound | None = None,
    ) -> None:
        self.codec = choose_codec(codec, sound)
        self._kind = _KINDS[self.codec]
        self.path = folder / f"{stem}{self._kind.suffix}"
        self._rate = Fraction(fps).limit_denominator(1001)  # 29.97... becomes 30000/1001
        self._fps, self._aspect, self._sound = fps, pixel_aspect, sound
        self._output: Any = None
        self._track: _SoundTrack | None = None
        self._stream: Any = None
        self._size = (0, 0)  # width and height in pixels
        self._start = 0.0  # time of the first frame
        self._ticks = -1  # time of the last one, in the stream's units
        self._count = 0

    def write(self, image: np.ndarray, time: float | None = None) -> None:
        """Append one (H, W, 3) uint8 RGB frame, shown at ``time`` seconds of the source's clock."""
        time = self._count / self._fps if time is None else time
        with self._one_line():
            if self._output is None:
                self._open(image, time)
            ticks = round((time - self._start) / self._stream.codec_context.time_base)
            self._ticks = max(ticks, self._ticks + 1)  # encoders refuse two pictures at one time
            frame = av.VideoFrame.from_ndarray(fit(self._square(image), *self._size), format="rgb24")
            frame.pts, frame.time_base = self._ticks, self._stream.codec_context.time_base
            self._output.mux(self._stream.encode(frame))
            self._count += 1
            if self._track is not None:
                self._track.write_until(time - self._start)

    def _open(self, image: np.ndarray, time: float) -> None:
        height, width = self._square(image).shape[:2]
        self._size = (max(width + width % 2, _MIN_SIDE), max(height + height % 2, _MIN_SIDE))
        self._start = time
        self._output = av.open(str(self.path), "w", container_options=self._kind.container)
        self._stream = self._output.add_stream(_encoder(self.codec), rate=self._rate, options=dict(self._kind.options))
        self._stream.width, self._stream.height = self._size
        self._stream.pix_fmt = "yuv420p"  # limited-range BT.601, which players assume of untagged video
        self._stream.thread_type = "AUTO"
        context = self._stream.codec_context
        context.gop_size = max(round(2 * self._rate), 1)  # a picture to start from every two seconds
        # WebM counts milliseconds; elsewhere ticks of at most 0.1 ms, of which a frame lasts a whole number.
        ticks = 1000 if self.codec == "vp9" else self._rate.numerator * math.ceil(10_000 / self._rate.numerator)
        context.time_base = Fraction(1, ticks)
        if self._sound is not None:
            self._track = _SoundTrack(self._sound, self._kind, self._output, time)

    def _square(self, image: np.ndarray) -> np.ndarray:
        """Stretch the picture where its pixels are not square: WebM and many players take no note of it."""
        if self._aspect == 1:
            return image
        wide, high = max(self._aspect, Fraction(1)), max(1 / self._aspect, Fraction(1))
        return cv2.resize(image, (round(image.shape[1] * wide), round(image.shape[0] * high)))

    @contextlib.contextmanager
    def _one_line(self) -> Iterator[None]:
        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            advice = "free some space, or use --no-video"
            raise UserError(f"cannot write {self.path.name} ({reason(error)}): {advice}") from error

    def finish(self) -> None:
        """Complete the file. Without a single frame there is none."""
        if self._output is None:
            return
        with self._one_line():
            self._output.mux(self._stream.encode(None))
            if self._track is not None:
                self._track.write_until(self._ticks * float(self._stream.codec_context.time_base) + 1 / self._fps)
            self._close()

    def abandon(self) -> None:
        with contextlib.suppress(av.error.FFmpegError, OSError):
            self._close()

    def _close(self) -> None:
        if self._track is not None:
            self._track.close()
        if self._output is not None:
            self._output.close()


def write_video(frames: Iterable[np.ndarray], folder: Path, stem: str, fps: float, codec: str = "h264") -> Path:
    """Write RGB frames as a video file, see :class:`VideoSink`; nothing is left of one that fails."""
    sink = VideoSink(folder, stem, fps, codec)
    try:
        for frame in frames:
            sink.write(frame)
        sink.finish()
    except BaseException:
        sink.abandon()
        sink.path.unlink(missing_ok=True)
        raise
    return sink.path


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
