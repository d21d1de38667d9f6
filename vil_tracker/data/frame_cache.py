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
from pathlib import Path

import cv2

from vil_tracker.errors import UserError, make_folder, writing
from vil_tracker.images import write_image
from vil_tracker.videos import VideoReader

LONG_SIDE = 480  # pixels
INFO = "frames.json"


def decoded_video(cache: Path, video: Path) -> tuple[Path, float]:
    """A folder below ``cache`` with a video's frames, ``000001.jpg`` and so on, and their size relative to its own:
    longer ones are shrunk to :data:`LONG_SIDE`. Decoded now if this is the first call; UserError where that cannot be.
    """
    place = _place(cache, video)
    if not (place / INFO).is_file():
        _decode(video, place)
    try:
        return place, float(json.loads((place / INFO).read_text(encoding="utf-8"))["scale"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"the frame cache {place} cannot be used ({error}): delete it") from error


def _place(cache: Path, video: Path) -> Path:
    """Folder of a video's frames; a changed file gets another one."""
    try:
        state = video.stat()
    except OSError as error:
        raise UserError(f"video {video} cannot be read ({error.strerror}): check the path") from error
    key = f"{video.resolve()} {state.st_size} {state.st_mtime_ns} {LONG_SIDE}"
    return cache / f"{video.stem[:60]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _decode(video: Path, place: Path) -> None:
    make_folder(place.parent)
    part = place.with_name(f".{place.name}.{secrets.token_hex(4)}.part")
    try:
        with writing(part), VideoReader(video) as reader:
            part.mkdir()
            count, scale = 0, min(1.0, LONG_SIDE / max(reader.width, reader.height, 1))
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
