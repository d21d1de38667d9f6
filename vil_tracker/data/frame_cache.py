"""Frames of short videos as JPEG files: each video is decoded once, since training draws frames in any order.

Seeking in a compressed video decodes everything from the key frame before, for each sample again. A video's frames lie
in a folder of their own below the cache folder, made under a temporary name and renamed when complete: a cache that was
interrupted goes on with the first video that is missing, and several processes may fill it at once.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

import cv2

from vil_tracker.errors import UserError, make_folder, writing
from vil_tracker.images import write_image
from vil_tracker.videos import VideoReader

LONG_SIDE = 480  # pixels
INFO = "frames.json"


@dataclass(frozen=True)
class CachedVideo:
    """A decoded video: ``count`` frames ``000001.jpg`` and so on in ``folder``, ``scale`` times as large as its own."""

    folder: Path
    count: int
    scale: float


@dataclass(frozen=True)
class FrameCache:
    """Decoded videos below ``folder``; frames longer than ``long_side`` pixels are shrunk to it."""

    folder: Path
    long_side: int = LONG_SIDE

    def get(self, video: Path) -> CachedVideo:
        """The frames of a video, decoded now if this is the first call for it; UserError where that cannot be done."""
        place = self._place(video)
        if not (place / INFO).is_file():
            self._decode(video, place)
        try:
            info = json.loads((place / INFO).read_text(encoding="utf-8"))
            return CachedVideo(place, int(info["count"]), float(info["scale"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"the frame cache {place} cannot be used ({error}): delete it") from error

    def _place(self, video: Path) -> Path:
        """Folder of a video's frames; a changed file gets another one."""
        try:
            state = video.stat()
        except OSError as error:
            raise UserError(f"video {video} cannot be read ({error.strerror}): check the path") from error
        key = f"{video.resolve()} {state.st_size} {state.st_mtime_ns} {self.long_side}"
        return self.folder / f"{video.stem[:60]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"

    def _decode(self, video: Path, place: Path) -> None:
        make_folder(self.folder)
        part = self.folder / f".{place.name}.{secrets.token_hex(4)}.part"
        try:
            with writing(part), VideoReader(video) as reader:
                part.mkdir()
                count, scale = 0, min(1.0, self.long_side / max(reader.width, reader.height, 1))
                for count, frame in enumerate(reader, start=1):
                    if scale < 1:
                        size = (max(1, round(frame.shape[1] * scale)), max(1, round(frame.shape[0] * scale)))
                        frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
                    write_image(part / f"{count:06d}.jpg", frame)
                if not count:
                    raise UserError(f"video {video} holds no frame that can be decoded: convert it to MP4")
                (part / INFO).write_text(json.dumps({"count": count, "scale": scale}), encoding="utf-8")
                try:
                    part.rename(place)
                except OSError:
                    if not (place / INFO).is_file():  # else another process was faster
                        raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
