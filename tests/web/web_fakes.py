"""A tracker without a network, videos good and bad, and a visitor who talks HTTP with the standard library alone."""

from __future__ import annotations

import http.client
import json
import os
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import cv2
import numpy as np

from vil_tracker.boxes import check_box, clip_box
from vil_tracker.results import STATES, Result, TrackerLike


class PatchTracker:
    """Follows the template by normalised cross-correlation: deterministic, and different boxes give different tracks.

    The states are a show: ten frames each. A black frame crashes the process, a white one hangs it, and one with a
    white corner takes its time.
    """

    def init(self, frame: np.ndarray, box: np.ndarray) -> Result:
        self.updates = 0
        self.box = check_box(box, frame.shape[1], frame.shape[0])
        x, y, w, h = np.round(clip_box(self.box, frame.shape[1], frame.shape[0], 4)).astype(int)
        self.template = frame[y : y + h, x : x + w].copy()
        return Result(self.box.copy(), 1.0, "tracking")

    def update(self, frame: np.ndarray) -> Result:
        if frame.max() < 5:
            os.abort()
        while frame.min() > 250:
            time.sleep(0.1)
        if frame[:4, :4].min() > 230:
            time.sleep(0.08)
        match = cv2.matchTemplate(frame, self.template, cv2.TM_CCOEFF_NORMED)
        _, score, _, (x, y) = cv2.minMaxLoc(match)
        self.updates += 1
        self.box = np.array([x, y, self.box[2], self.box[3]], np.float64)
        return Result(self.box.copy(), float(np.clip(score, 0, 1)), STATES[self.updates // 10 % 4])


def load_patch_tracker() -> Callable[[], TrackerLike]:
    return PatchTracker


def frames(count: int, seed: int, width: int = 160, height: int = 96, slow: bool = False) -> Iterator[np.ndarray]:
    """A bright disc on texture, moving to the right; with a white corner, so that a test can look at a run, if slow."""
    rng = np.random.default_rng(seed)
    ground = cv2.GaussianBlur(rng.integers(40, 160, (height, width, 3), np.uint8), (0, 0), 2)
    for index in range(count):
        picture = ground.copy()
        picture[:8, :8] = 255 if slow else picture[:8, :8]
        centre = (20 + index * (width - 40) // max(count, 2), height // 2 + round(10 * np.sin(index / 5)))
        cv2.circle(picture, centre, 11, (250, 220, 60), -1, cv2.LINE_AA)
        cv2.circle(picture, centre, 5, (40, 60, 200), -1, cv2.LINE_AA)
        yield picture


def write_video(path: Path, pictures: Iterator[np.ndarray] | list[np.ndarray], fps: float = 25.0) -> Path:
    writer = None
    for picture in pictures:
        if writer is None:
            size = (picture.shape[1], picture.shape[0])
            writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), fps, size)
            assert writer.isOpened()
        writer.write(picture[..., ::-1])
    assert writer is not None
    writer.release()
    return path


def write_lie(path: Path, count: int, claimed: int) -> Path:
    """An AVI file of ``count`` frames whose header claims another number."""
    data = bytearray(write_video(path, frames(count, 0)).read_bytes())
    for name, offset in ((b"avih", 16), (b"strh", 32)):  # dwTotalFrames, and dwLength of the stream
        struct.pack_into("<I", data, data.index(name) + 8 + offset, claimed)
    path.write_bytes(data)
    return path


BOX = [8.0, 36.0, 24.0, 24.0]  # the disc on the first frame


def targets(boxes: Any = None) -> list[dict[str, Any]]:
    """What the page sends for boxes (4,) on the first frame."""
    return [{"name": "", "boxes": [[0, *box]]} for box in ([BOX] if boxes is None else boxes)]


class Answer:
    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Visitor:
    """A browser without eyes: keeps its cookie, sends the header that the page's script sends."""

    def __init__(self, address: str, cookie: str | None = None) -> None:
        self.address, self.cookie = address, cookie
        if cookie is None:
            answer = self.ask("GET", "/")
            self.cookie = answer.headers["set-cookie"].split(";")[0]

    def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None, timeout: float = 60
    ) -> Answer:
        connection = http.client.HTTPConnection(urlsplit(self.address).netloc, timeout=timeout)
        try:
            sent = {"X-ViL-Tracker": "1"} | ({"Cookie": self.cookie} if self.cookie else {}) | (headers or {})
            data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
            connection.request(method, path, data, {name: value for name, value in sent.items() if value})
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def upload(self, data: bytes | Path, name: str = "clip.mp4") -> Answer:
        content = data.read_bytes() if isinstance(data, Path) else data
        return self.ask("POST", f"/api/videos?name={quote(name)}", content)

    def track(self, video: str, boxes: Any = None) -> Answer:
        return self.ask("POST", f"/api/videos/{video}/track", {"targets": targets(boxes)})

    def status(self, video: str, after: int = 0) -> dict[str, Any]:
        answer = self.ask("GET", f"/api/videos/{video}?after={after}")
        assert answer.status == 200, answer.body
        return answer.json

    def wait(self, video: str, until: tuple[str, ...] = ("done", "stopped", "failed"), seconds: float = 90) -> dict:
        end = time.monotonic() + seconds
        while (state := self.status(video))["status"] not in until:
            assert time.monotonic() < end, f"still {state['status']} after {state['tracked']} frames"
            time.sleep(0.05)
        return state

    def run(self, path: Path, boxes: Any = None) -> dict[str, Any]:
        """Upload, track, wait."""
        answer = self.upload(path)
        assert answer.status == 201, answer.body
        started = self.track(answer.json["id"], boxes)
        assert started.status == 202, started.body
        return self.wait(answer.json["id"])

    def file(self, video: str, role: str) -> Answer:
        return self.ask("GET", f"/api/videos/{video}/{role}")
