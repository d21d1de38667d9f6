"""Live sources: webcams and network streams, read with bounded delay."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator

import cv2
import numpy as np

from vil_tracker.errors import UserError
from vil_tracker.images import check_pixels, to_rgb8
from vil_tracker.io.source import Frame, Source
from vil_tracker.videos import VideoReader

log = logging.getLogger(__name__)

LIVE_FPS = 30.0  # where the camera does not state its rate
_RETRY_SECONDS = (0.1, 0.2, 0.5, 1.0)  # pauses between attempts to connect again; the last one repeats


class _Webcam:
    """A webcam through OpenCV, which knows the cameras of every system."""

    def __init__(self, index: int) -> None:
        self._capture = cv2.VideoCapture(index)
        if not self._capture.isOpened():
            self._capture.release()
            raise UserError(f"webcam {index} cannot be opened: is it plugged in and free?")
        self.fps = float(self._capture.get(cv2.CAP_PROP_FPS))

    def read(self) -> np.ndarray | None:
        done, image = self._capture.read()
        if not done or image is None:
            return None
        check_pixels(image.shape[1], image.shape[0], "the webcam's picture")
        return to_rgb8(image)

    def close(self) -> None:
        self._capture.release()


class LiveSource(Source):
    """A webcam, by its index, or a stream (RTSP, HTTP, ...), by an address with ``://``; every stride-th frame.

    A thread receives frames and keeps only the newest, so that a tracker slower than the camera works on fresh frames
    and the memory stays bounded; frames that nobody fetched in time are counted in :attr:`dropped`. When the
    connection breaks or stalls, the thread connects again; after ``timeout`` seconds without a frame the source ends.

    An address that turns out to hold a finished video (its length is known, or its container is one of files) is read
    frame by frame instead. UserError where it cannot be opened within ``timeout``.
    """

    def __init__(self, address: int | str, *, stride: int = 1, timeout: float = 10.0) -> None:
        if not 0.1 <= timeout <= 3600:
            raise UserError(f"stream timeout {timeout:g} is out of range: give seconds from 0.1 to 3600")
        self._address, self._stride, self._timeout = address, stride, timeout
        self.name = f"camera{address}" if isinstance(address, int) else "stream"
        capture = self._connect(timeout)
        self.fps = capture.fps if 1 <= capture.fps <= 480 else LIVE_FPS
        self.live, self.total = True, None
        if isinstance(capture, VideoReader):
            self.live, self.pixel_aspect = capture.endless, capture.pixel_aspect
            if not self.live and capture.frames_claimed:
                self.total = -(-capture.frames_claimed // stride)
        self.received = self.dropped = self.reconnections = 0
        self._changed = threading.Condition()
        self._newest: Frame | None = None
        self._ended = False
        self._failure: UserError | None = None
        self._begin: float | None = None
        self._last_arrival = time.monotonic()
        self._capture: _Webcam | VideoReader | None = capture
        self._thread: threading.Thread | None = None

    def _connect(self, timeout: float) -> _Webcam | VideoReader:
        if isinstance(self._address, int):
            return _Webcam(self._address)
        reader = VideoReader(self._address, timeout=timeout)
        if reader.endless and reader.next_time is None:
            reader.close()
            raise UserError(f"stream {self._address} gives no picture: check the address and the network")
        return reader

    def __iter__(self) -> Iterator[Frame]:
        if not self.live:
            yield from self._read_in_order()
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._receive, name="live-source", daemon=True)
            self._last_arrival = time.monotonic()
            self._thread.start()
        while (frame := self._next()) is not None:
            yield frame

    def _next(self) -> Frame | None:
        """Wait for a frame newer than the last one given; None when the source has ended."""
        with self._changed:
            while self._newest is None:
                remaining = self._last_arrival + self._timeout - time.monotonic()
                if self._failure is not None:
                    raise self._failure
                if self._ended or remaining <= 0:
                    log.warning("%s gave no frame for %.1f s and is taken to have ended", self.name, self._timeout)
                    return None
                self._changed.wait(remaining)
            frame, self._newest = self._newest, None
            return frame

    def _receive(self) -> None:
        capture = self._capture
        try:
            while capture is not None and not self._ended:
                if (image := capture.read()) is not None:
                    self._arrived(image)
                    continue
                capture.close()
                capture = self._reconnect()
        except UserError as error:
            self._failure = error
        finally:
            if capture is not None:
                capture.close()
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _arrived(self, image: np.ndarray) -> None:
        now = time.monotonic()
        self._begin = now if self._begin is None else self._begin
        number, self.received = self.received, self.received + 1
        with self._changed:
            self._last_arrival = now
            if number % self._stride == 0:
                self.dropped += self._newest is not None
                self._newest = Frame(number, now - self._begin, image)
                self._changed.notify_all()

    def _reconnect(self) -> _Webcam | VideoReader | None:
        deadline = self._last_arrival + self._timeout
        attempt = 0
        while not self._ended and (remaining := deadline - time.monotonic()) > 0:
            log.info("%s: no frame, connecting again", self.name)
            with contextlib.suppress(UserError):
                capture = self._connect(min(remaining, 5.0))
                self.reconnections += 1
                return capture
            time.sleep(min(_RETRY_SECONDS[min(attempt, len(_RETRY_SECONDS) - 1)], max(remaining, 0.0)))
            attempt += 1
        return None

    def _read_in_order(self) -> Iterator[Frame]:
        reader, number = self._capture, 0
        assert isinstance(reader, VideoReader)
        while True:
            with self._changed:  # close() waits for the read
                image = None if self._ended else reader.read()
            if image is None:
                break
            if number % self._stride == 0:
                yield Frame(number, reader.time, image)
            number += 1
        if number == 0:
            raise UserError(f"{self._address} holds no frame that can be decoded: check that it is a video")

    def close(self) -> None:
        """Stop receiving. The thread lets go of the connection by itself, at the latest when its read times out."""
        self._ended = True
        if self._thread is None:
            with self._changed:
                if self._capture is not None:
                    self._capture.close()
        else:
            self._thread.join(timeout=1.0)
