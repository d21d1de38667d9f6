"""Reading video: files and network streams become RGB frames with their times here and nowhere else (PyAV, FFmpeg).

What a container's header claims serves progress bars only. The number of frames is what was decoded, a frame's time is
its presentation time, and pictures come upright, progressive and with eight bits.
"""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import av
import av.error
import av.filter
import cv2
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import VideoReformatter

from vil_tracker.errors import UserError, reason
from vil_tracker.images import MAX_PIXELS, check_pixels

log = logging.getLogger(__name__)

VIDEO_EXTENSIONS = frozenset(
    ".mp4 .m4v .mov .qt .mkv .webm .avi .mpg .mpeg .mpe .m1v .m2v .vob .ts .mts .m2ts .m2t .wmv .asf .flv .f4v .3gp "
    ".3g2 .ogv .ogm .rm .rmvb .mxf .gif .dv .divx .h264 .264 .h265 .hevc .ivf .y4m .mjpeg .mjpg".split()
)
#: Formats that can be cut and joined anywhere: over a network they may have no end.
_STREAMED = frozenset("mpegts mpjpeg mjpeg flv live_flv hls dash rtsp sdp rtp h264 hevc m4v mpegvideo".split())
_NETWORK = "http,https,httpproxy,tcp,tls,udp,rtp,srtp,rtsp,rtmp,rtmps,rtmpt,rtmpts,ffrtmphttp,srt,hls,crypto,data"
_NO_TIMES = frozenset({"avi"})  # it stores when a frame is decoded, not when it is shown


class VideoReader:
    """A video file or a network stream as RGB frames, in the order in which they are shown.

    Rotation and mirroring are applied, interlaced frames are deinterlaced (FFmpeg's yadif), more than eight bits are
    scaled down and transparency is dropped. Pixels are those stored; where they are not square, :attr:`pixel_aspect`
    says so. A part that cannot be decoded is left out, with a warning that names the frame.

    The source is a file's path, or an address with ``://``. ``timeout`` is in seconds: what opening a stream may take,
    and twice what a read may take (files: no limit). UserError where the source is missing, holds no video, or has
    frames of more than ``max_pixels``; a later one is refused before it is decoded.
    """

    def __init__(
        self, source: str | os.PathLike[str], *, timeout: float | None = None, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.path = os.fspath(source)
        self._name = self.path.encode(errors="backslashreplace").decode()
        self._network = "://" in self.path
        self._timeout, self._max_pixels = timeout, max_pixels
        if not self._network and not Path(self.path).exists():
            raise UserError(f"video {self._name} does not exist: check the path")
        self._open()

    def _open(self) -> None:
        self._file: BinaryIO | None = None
        self._container = self._open_container()
        try:
            self._stream = self._choose_stream()
            self._prepare()
        except BaseException:
            self.close()
            raise

    def _open_container(self) -> Any:
        options = {"max_pixels": str(MAX_PIXELS)}  # for what opening decodes
        target: Any = self.path
        if self._network:
            options |= {"protocol_whitelist": _NETWORK, "rtsp_flags": "prefer_tcp"}
            options |= {"reconnect": "1", "reconnect_on_network_error": "1", "reconnect_delay_max": "2"}
        elif stat.S_ISFIFO(os.stat(self.path).st_mode):  # FFmpeg waits for a pipe where no interrupt reaches it
            target = self._file = Path(self.path).open("rb")
        else:
            options |= {"protocol_whitelist": "file,crypto,data"}
            target = f"file:{self.path}"  # a name with a colon is no protocol
        timeout = None if self._timeout is None else (self._timeout, max(self._timeout / 2, 0.05))
        try:
            return av.open(target, options=options, timeout=timeout, metadata_errors="replace")
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self._close_file()
            if not self._network:
                raise UserError(
                    f"video {self._name} cannot be opened, it is damaged, empty or of an unsupported format "
                    f"({reason(error)}): see whether a player shows it, or convert it to MP4"
                ) from error
            advice = "check the address and the network"
            if isinstance(error, av.error.InvalidDataError):
                advice = "if it is a video whose index lies at its end, download it first, then track the file"
            raise UserError(f"stream {self._name} cannot be opened ({reason(error)}): {advice}") from error

    def _choose_stream(self) -> Any:
        videos = self._container.streams.video
        pictures = [stream for stream in videos if not stream.disposition & stream.disposition.attached_pic]
        if self._container.format.name == "tty":  # FFmpeg draws any text as a picture
            raise UserError(f"{self._name} is a text, not a video: give a video file")
        if not pictures:
            what = "only sound and a cover picture" if videos else "no video"
            raise UserError(f"{self._name} holds {what}: give a video file")
        return pictures[0]

    def _prepare(self) -> None:
        stream, container = self._stream, self._container
        self.width, self.height = stream.codec_context.width, stream.codec_context.height  # later of the upright frames
        check_pixels(self.width, self.height, f"video {self._name}", self._max_pixels)
        # Frames may grow on the way. FFmpeg rounds their size up before it compares, so each is looked at again.
        stream.codec_context.options = {"max_pixels": str(self._max_pixels + (1 << 20))}
        stream.thread_type = "SLICE" if self._network else "AUTO"  # threads by frames would delay a live picture
        rate = float(stream.average_rate or stream.guessed_rate or 0)
        self.fps = rate if 0.01 < rate < 10_000 else 25.0  # on average
        seconds = float(stream.duration * stream.time_base) if stream.duration else (container.duration or 0) / 1e6
        self.frames_claimed = (
            stream.frames or round(max(seconds, 0) * self.fps) or None
        )  # for progress bars: often wrong
        formats = set(container.format.name.split(","))
        size = 0 if formats & {"hls", "dash"} else container.size  # theirs is the playlist's
        self.endless = self._network and not formats.isdisjoint(_STREAMED) and size <= 0 and seconds <= 0
        self._timeless = not formats.isdisjoint(_NO_TIMES)
        self.has_sound = bool(container.streams.audio)
        self.time = 0.0  # seconds from the first frame to the last one read, by the container's clock
        self.broken: str | None = None  # why a read failed for good
        self._decoded = 0
        self._position = 0  # frames read or passed over
        self._latest = 0.0
        self._offset: float | None = None  # from the container's time to ours
        self.origin = 0.0  # the container's time of the first frame in seconds
        self._reformatter = VideoReformatter()
        self._graph: av.filter.Graph | None = None
        self._graph_kind: tuple[object, ...] = ()
        self._turn = (False, False, False)  # transpose, then flip left and right, then top and bottom
        self._frames = self._decode()
        self._ahead = next(self._frames, None)  # its side data say how the picture is turned
        aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
        self.pixel_aspect = Fraction(aspect) if aspect and aspect > 0 else Fraction(1)  # width of a pixel by its height
        if self._turn[0]:
            self.width, self.height, self.pixel_aspect = self.height, self.width, 1 / self.pixel_aspect

    def _decode(self) -> Iterator[tuple[VideoFrame, float]]:
        """Every frame of the stream with its time; parts that are damaged are left out."""
        damage: tuple[int, str] | None = None
        packets = self._container.demux(self._stream)
        while True:
            packet = None
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError) as error:
                if not isinstance(error, av.error.EOFError):
                    self.broken = reason(error)
            try:
                frames = self._stream.codec_context.decode(packet)  # None draws what the decoder holds back
            except (av.error.FFmpegError, OSError) as error:
                frames = []
                if not isinstance(error, av.error.EOFError):
                    damage = damage or (self._decoded, reason(error))
            for frame in frames:
                if frame.width * frame.height > self._max_pixels:
                    damage = damage or (self._decoded, f"grows to {frame.width}x{frame.height}")
                    continue
                if self._decoded == 0:
                    self._turn = _turn(frame)
                for shown in self._progressive(frame):
                    yield shown, self._clock(shown)
                    self._decoded += 1
            if packet is None or packet.size == 0:
                break
        for shown in self._progressive(None):
            yield shown, self._clock(shown)
            self._decoded += 1
        if damage is not None and self._decoded:  # without a frame, the whole file is at fault
            log.warning("%s: damaged at frame %d (%s), left out", self._name, *damage)
        if self.broken and not self.endless:
            log.warning("%s cannot be read beyond frame %d (%s)", self._name, self._decoded, self.broken)

    def _progressive(self, frame: VideoFrame | None) -> Iterator[VideoFrame]:
        """Deinterlace from the first interlaced frame on; None draws what the filter holds back."""
        if frame is not None and self._graph is None and not frame.interlaced_frame:
            yield frame
            return
        kind = () if frame is None else (frame.width, frame.height, frame.format.name)
        if self._graph is not None and kind != self._graph_kind:
            self._graph.push(None)
            yield from _pull_all(self._graph)
            self._graph = None
        if frame is None:
            return
        if self._graph is None:
            self._graph, self._graph_kind = _deinterlacer(frame), kind
        self._graph.push(frame)
        yield from _pull_all(self._graph)

    def _clock(self, frame: VideoFrame) -> float:
        """Seconds since the first frame. Where the container is silent or its clock jumps back, one frame goes on."""
        step = self._decoded / self.fps
        stored = None if self._timeless else frame.time
        if stored is None:
            return step
        if self._offset is None:
            self.origin, self._offset = stored, step - stored
        if stored + self._offset < self._latest:
            self._offset = self._latest + 1 / self.fps - stored
        self._latest = stored + self._offset
        return self._latest

    @property
    def next_time(self) -> float | None:
        """Time of the frame that :meth:`read` gives next, None at the end."""
        if self._ahead is None:
            self._ahead = next(self._frames, None)
        return None if self._ahead is None else self._ahead[1]

    def skip(self) -> bool:
        """Pass over the next frame without converting it; False at the end."""
        return self._take() is not None

    def _take(self) -> VideoFrame | None:
        if self.next_time is None or self._ahead is None:
            return None
        frame, self.time = self._ahead
        self._ahead = None
        self._position += 1
        return frame

    def read(self) -> np.ndarray | None:
        """Decode the next frame, (H, W, 3) uint8 RGB, or return None at the end."""
        frame = self._take()
        if frame is None:
            return None
        image: np.ndarray = self._reformatter.reformat(frame, format="rgb24").to_ndarray()
        transpose, mirror, upend = self._turn
        if transpose:
            image = cv2.transpose(image)
        if mirror or upend:
            image = cv2.flip(image, -1 if mirror and upend else int(mirror))
        return image

    def seek(self, index: int) -> None:
        """Go to frame ``index`` (zero-based), exactly: forward by decoding, backward from the first frame again.

        No container says reliably which frame of the video a place in the file holds.
        """
        if index < self._position:
            self.close()
            self._open()
        while self._position < index and self.skip():
            pass

    def __iter__(self) -> Iterator[np.ndarray]:
        while (image := self.read()) is not None:
            yield image

    def close(self) -> None:
        self._container.close()
        self._close_file()

    def _close_file(self) -> None:
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def count_frames(path: str | os.PathLike[str]) -> int:
    """Frames of a video file, by decoding all of it; raises as :class:`VideoReader`."""
    with VideoReader(path) as reader:
        count = 0
        while reader.skip():
            count += 1
    return count


def _turn(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """How to bring a frame upright: transpose it, then flip left and right, then top and bottom.

    FFmpeg's display matrix maps a stored point (x, y) to (a·x + c·y, b·x + d·y); turns that are no multiple of 90° are
    rounded to one.
    """
    try:
        data: Any = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # beside data of a kind that PyAV does not know, such as EXIF: the angle alone
        quarter = round(frame.rotation / 90) % 4
        return quarter % 2 == 1, quarter in (2, 3), quarter in (1, 2)
    if data is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(memoryview(data), np.int32)[:5]
    if abs(a) >= abs(b):
        return False, bool(a < 0), bool(d < 0)
    return True, bool(c < 0), bool(b < 0)


def _deinterlacer(frame: VideoFrame) -> av.filter.Graph:
    """A filter that makes one progressive frame of each interlaced one and passes on the others."""
    graph = av.filter.Graph()
    source = graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base)
    yadif, sink = graph.add("yadif", "deint=interlaced"), graph.add("buffersink")
    source.link_to(yadif)
    yadif.link_to(sink)
    graph.configure()
    return graph


def _pull_all(graph: av.filter.Graph) -> Iterator[Any]:
    while True:
        try:
            yield graph.pull()
        except (BlockingIOError, EOFError):  # nothing yet, nothing more
            return
