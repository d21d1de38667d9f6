"""Stand-ins for the tracker and the window, a small test video, and a stream server on 127.0.0.1."""

from __future__ import annotations

import csv
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

from vil_tracker import cli
from vil_tracker.boxes import check_box, clip_box
from vil_tracker.results import STATES, Result


class FakeTracker:
    """Moves the box by (2, 1) pixels per frame and walks through the states, ten frames each."""

    def __init__(self, delay: float = 0.0) -> None:
        self.delay = delay
        self.updates = 0

    def init(self, frame: np.ndarray, box: np.ndarray) -> Result:
        self.updates = 0
        self.box = check_box(box, frame.shape[1], frame.shape[0])
        return Result(self.box.copy(), 1.0, "tracking")

    def update(self, frame: np.ndarray) -> Result:
        time.sleep(self.delay)
        self.updates += 1
        self.box = clip_box(self.box + np.array([2.0, 1.0, 0.0, 0.0]), frame.shape[1], frame.shape[0])
        return Result(self.box.copy(), 0.75, STATES[self.updates // 10 % 4])


class ScriptedWindow:
    """A window whose user presses the keys of a script, one per look, and draws the given boxes."""

    def __init__(self, keys: list[str], boxes: list[np.ndarray | None] | None = None) -> None:
        self.keys, self.boxes = list(keys), list(boxes or [])
        self.shown: list[np.ndarray] = []
        self.closed = False

    def show(self, image: np.ndarray) -> None:
        self.shown.append(image)

    def key(self, milliseconds: int) -> str:
        return self.keys.pop(0) if self.keys else ""

    def select(self, image: np.ndarray, hint: str) -> tuple[np.ndarray | None, bool]:
        return (self.boxes.pop(0) if self.boxes else None), bool(self.boxes)

    def close(self) -> None:
        self.closed = True


def numbered_frame(number: int, width: int = 96, height: int = 64) -> np.ndarray:
    """A frame that tells its number after any lossy coding: eight bits as black and white stripes."""
    image = np.zeros((height, width, 3), np.uint8)
    stripe = width // 8
    for bit in range(8):
        image[:, bit * stripe : (bit + 1) * stripe] = 230 if number >> bit & 1 else 25
    return image


def read_number(image: np.ndarray) -> int:
    """The number in a frame of :func:`numbered_frame`."""
    stripe = image.shape[1] // 8
    row = image[image.shape[0] * 7 // 8]
    return sum((row[bit * stripe + stripe // 2].mean() > 128) << bit for bit in range(8))


def write_video(path: Path, count: int = 30, fps: float = 30000 / 1001, size: tuple[int, int] = (96, 64)) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
    assert writer.isOpened()
    for number in range(count):
        writer.write(numbered_frame(number, *size))
    writer.release()
    return path


def read_video(path: Path) -> tuple[float, list[np.ndarray]]:
    """Frames per second and RGB frames, read by OpenCV directly."""
    capture = cv2.VideoCapture(str(path))
    fps, frames = capture.get(cv2.CAP_PROP_FPS), []
    while (item := capture.read())[0]:
        frames.append(cv2.cvtColor(item[1], cv2.COLOR_BGR2RGB))
    capture.release()
    return fps, frames


def jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


class MjpegServer:
    """Serves ``multipart/x-mixed-replace`` JPEG frames, one plan per connection, in turn.

    A plan is a list of frames (images), pauses (seconds) and raw bytes; after it the connection is closed. After the
    last plan, connections are refused.
    """

    def __init__(self, plans: list[list[np.ndarray | float | bytes]], interval: float = 0.02) -> None:
        self._plans, self._interval = list(plans), interval
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}/stream.mjpg"
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for plan in self._plans:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.recv(4096)
                    self._play(connection, plan)
                except OSError:
                    pass  # the client went away
        self._listener.close()

    def _play(self, connection: socket.socket, plan: list[np.ndarray | float | bytes]) -> None:
        head = "HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n"
        connection.sendall(head.encode())
        for item in plan:
            if isinstance(item, np.ndarray):
                data = jpeg(item)
                part = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
                connection.sendall(part.encode() + data + b"\r\n")
                self._stop.wait(self._interval)
            elif isinstance(item, bytes):
                connection.sendall(item)
            else:
                self._stop.wait(item)
            if self._stop.is_set():
                return

    def close(self) -> None:
        self._stop.set()
        self._listener.close()
        self._thread.join(timeout=5)


@contextmanager
def serve(plans: list[list[np.ndarray | float | bytes]], interval: float = 0.02) -> Iterator[str]:
    server = MjpegServer(plans, interval)
    try:
        yield server.address
    finally:
        server.close()


def track(*words: object) -> int:
    """``vil-tracker track`` with these words; its exit status."""
    return cli.main(["track", *map(str, words)])


def rows(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file."""
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))
