"""What the worker processes do: open uploads, show their frames, paint the sample clip, track as ``track`` does."""

from __future__ import annotations

import base64
import contextlib
import errno
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vil_tracker.errors import UserError
from vil_tracker.web.child import Emit, Handler, Stopped
from vil_tracker.web.limits import Limits

if TYPE_CHECKING:
    from vil_tracker.io.source import Frame, Source
    from vil_tracker.results import Result, TrackerLike
    from vil_tracker.tracking.run import OutputSettings
    from vil_tracker.videos import VideoReader

FIRST_FRAME, PREVIEW = "first.jpg", "preview.jpg"
_PROBE_MEMORY = 6 << 30
_EVENT_SECONDS, _PREVIEW_SECONDS, _PREVIEW_SIDE = 0.15, 0.6, 960
_STEPS_BACK, _FRAME_BYTES = 12, 64 << 20  # frames decoded before one that lies behind, for steps back; kept ones


def container_of(head: bytes) -> str | None:
    """The file ending of the video container that begins with ``head`` (512 bytes are enough), or None.

    Only formats whose frames lie in the file itself are known: a playlist could name any file of the server.
    """
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot"):
        return ".mp4"
    if head.startswith(b"\x1a\x45\xdf\xa3"):
        return ".mkv"
    if head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        return ".avi"
    if head.startswith((b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")):
        return ".mpg"
    if len(head) > 376 and head[0] == head[188] == head[376] == 0x47:
        return ".ts"
    if head.startswith(b"FLV\x01"):
        return ".flv"
    if head.startswith(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11"):
        return ".wmv"
    return None


def probe_setup(limits: Limits) -> Handler:
    """The process that looks at uploads: ``{"probe": path}`` and ``{"sample": path}``."""
    try:
        import resource
    except ImportError:  # not on Windows
        pass
    else:
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        allowed = _PROBE_MEMORY if hard == resource.RLIM_INFINITY else min(_PROBE_MEMORY, hard)
        resource.setrlimit(resource.RLIMIT_AS, (allowed, hard))

    frames = FrameReader(limits)

    def handle(request: Any, emit: Emit, stopped: Stopped) -> Any:
        if "sample" in request:
            return paint_sample(Path(request["sample"]))
        if "rest" in request:
            return frames.close()
        if "frame" in request:
            image = frames.read(Path(request["path"]), request["frame"])
            return propose(image, request["point"]) if "point" in request else jpeg(image)
        return probe(Path(request["probe"]), limits)

    return handle


class FrameReader:
    """Single frames of videos, any of them; the video asked for last stays open."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._path: Path | None = None
        self._reader: VideoReader | None = None
        self._next = 0
        self._frames: dict[int, np.ndarray] = {}

    def read(self, path: Path, number: int) -> np.ndarray:
        """Frame ``number`` of the video, (H, W, 3) uint8 RGB; UserError where it cannot be read or is over a limit."""
        try:
            return self._read(path, number)
        except UserError as error:
            self.close()
            raise UserError(_without_path(error, path)) from None

    def _read(self, path: Path, number: int) -> np.ndarray:
        from vil_tracker.videos import VideoReader

        if path != self._path:
            self.close()
            self._path, self._reader = path, VideoReader(path, max_pixels=self._limits.pixels)
        assert self._reader is not None
        if number not in self._frames:
            if not self._next <= number <= self._next + _STEPS_BACK:
                self._next = max(0, number - _STEPS_BACK) if number < self._next else number
                self._reader.seek(self._next)
            while self._next <= number:
                image = self._reader.read()
                if image is None:
                    raise UserError(f"the video has no frame {number} that can be decoded")
                check_size(image.shape[1], image.shape[0], self._limits)
                self._frames[self._next] = image
                self._next += 1
            most = max(1, _FRAME_BYTES // self._frames[number].nbytes)
            kept = sorted(self._frames, key=lambda k: abs(k - number))[:most]
            self._frames = {k: self._frames[k] for k in kept}
        return self._frames[number]

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
        self._path, self._reader, self._next, self._frames = None, None, 0, {}


def jpeg(image: np.ndarray) -> dict[str, str]:
    """An RGB image as a JPEG file in base64."""
    import cv2

    data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1]
    return {"jpeg": base64.b64encode(data.tobytes()).decode()}


def propose(image: np.ndarray, point: list[float]) -> dict[str, list[list[float]]]:
    """Boxes for a click, best first."""
    from vil_tracker.tracking.proposals import propose_boxes

    return {"boxes": [box.round(1).tolist() for box in propose_boxes(image, point)]}


def probe(path: Path, limits: Limits) -> dict[str, Any]:
    """Open an upload, write its first frame beside it, and return width and height in pixels, fps, and frames as the
    container claims (None where it claims nothing); UserError where it cannot be decoded, or is over a limit.
    """
    from vil_tracker.images import write_image
    from vil_tracker.videos import VideoReader

    try:
        with VideoReader(path, max_pixels=limits.pixels) as reader:
            check_size(reader.width, reader.height, limits)
            if (reader.frames_claimed or 0) > limits.frames:
                raise UserError(
                    f"the video has {reader.frames_claimed} frames, the limit is {limits.frames}: cut it into parts"
                )
            first = reader.read()
            if first is None:
                raise UserError("the video holds no frame that can be decoded: it is damaged or empty")
            height, width = first.shape[:2]
            check_size(width, height, limits)
            write_image(path.parent / FIRST_FRAME, first)
            return {"width": width, "height": height, "fps": reader.fps, "frames": reader.frames_claimed}
    except UserError as error:
        raise UserError(_without_path(error, path)) from None


def check_size(width: int, height: int, limits: Limits) -> None:
    """Raise UserError if a frame has too many pixels, or none."""
    if width < 1 or height < 1:
        raise UserError("the video states no size: it is damaged or of an unsupported kind")
    if width * height > limits.pixels:
        raise UserError(
            f"the video is {width}×{height}, the limit is {limits.pixels / 1e6:.1f} megapixels: scale it down first"
        )


def _without_path(error: UserError, path: Path) -> str:
    """The message for a visitor, whom the server's paths do not concern."""
    return str(error).replace(f"video {path}", "the video").replace(str(path), "the video")


def paint_sample(path: Path) -> dict[str, Any]:
    """Write the demo clip to ``path`` (.mp4), and say where its target is on the first frame."""
    from vil_tracker.data.synthetic.demo_clip import FPS, DemoClip
    from vil_tracker.io.video_writer import write_video

    clip = DemoClip()
    write_video(clip, path.parent, path.stem, FPS)
    return {"targets": [{"name": "car", "boxes": [[0, *(round(float(value), 1) for value in clip.boxes[0])]]}]}


def track_setup(load: Callable[[], Callable[[], TrackerLike]], limits: Limits) -> Handler:
    """The process that tracks; ``load`` is called once, as by the command line."""
    from vil_tracker.runtime import keep_freed_memory

    keep_freed_memory()
    if limits.workers > 1:
        import torch

        torch.set_num_threads(max(1, (os.cpu_count() or 1) // limits.workers))
    make_tracker = load()

    def handle(request: Any, emit: Emit, stopped: Stopped) -> Any:
        path, folder, earlier = (Path(request[name]) for name in ("path", "folder", "earlier"))
        try:
            return run_track(path, folder, request["targets"], make_tracker, limits, emit, stopped, earlier)
        except UserError as error:
            raise UserError(_without_path(error, path)) from None

    return handle


def run_track(
    path: Path,
    folder: Path,
    targets: list[dict[str, Any]],
    make_tracker: Callable[[], TrackerLike],
    limits: Limits,
    emit: Emit,
    stopped: Stopped,
    earlier: Path,
) -> dict[str, Any]:
    """Track one video exactly as ``vil-tracker track`` does, with every format of boxes.

    Events are lists of rows ``[frame, target, score, state, x, y, w, h, seconds]``. Meanwhile a picture of the latest
    frame is kept beside the video. ``targets`` are as of :func:`vil_tracker.web.targets.check_targets`; what of the
    run in folder ``earlier`` still holds for them is taken over.

    Returns frames tracked, seconds, files by role, whether it was stopped, and whether the frame limit ended it.
    """
    from vil_tracker.io.box_writers import BOX_FORMATS
    from vil_tracker.io.files import open_source
    from vil_tracker.io.source import Start
    from vil_tracker.tracking.run import OutputSettings, track_source
    from vil_tracker.tracking.select import Target
    from vil_tracker.web.targets import known_results, save_results

    rows: list[list[Any]] = []
    kept: list[tuple[Frame, Mapping[int, Result]]] = []  # without pictures, for when the disk is full
    sent = shown = 0.0
    called_off = False

    def on_frame(frame: Frame, results: Mapping[int, Result]) -> bool:
        nonlocal sent, shown, called_off
        check_size(frame.image.shape[1], frame.image.shape[0], limits)
        kept.append((replace(frame, image=np.broadcast_to(np.uint8(0), frame.image.shape)), dict(results)))
        rows.extend(
            [frame.number, number, round(r.score, 4), r.state, *r.box.round(1).tolist(), round(frame.time, 4)]
            for number, r in results.items()
        )
        now = time.monotonic()
        if now - sent >= _EVENT_SECONDS:
            emit(list(rows))
            rows.clear()
            sent = now
            called_off = stopped()
        if now - shown >= _PREVIEW_SECONDS:
            _write_preview(path.parent / PREVIEW, frame.image, results)
            shown = now
        return not called_off

    start = Start(min(target["boxes"][0][0] for target in targets))
    source = open_source(path, start=start, max_pixels=limits.pixels)
    settings = OutputSettings(folder=folder, formats=tuple(BOX_FORMATS))
    drawn = [
        [Target(number, np.array(box, np.float64), frame) for frame, *box in target["boxes"]]
        for number, target in enumerate(targets, start=1)
    ]
    begin, note = time.monotonic(), ""
    try:
        summary = track_source(
            source,
            lambda first: [boxes[0] for boxes in drawn],
            make_tracker,
            settings,
            limit=limits.frames,
            progress=False,
            on_frame=on_frame,
            corrections=[box for boxes in drawn for box in boxes[1:]],
            known=known_results(earlier, targets),
        )
        written = summary.files
        if summary.fault is not None:
            note = f"The video could not be read any further: {summary.fault}"
    except (UserError, OSError) as error:
        if not kept or not _is_full(error):
            raise
        note = "The server's disk became full: the video was not written, the boxes up to there were."
        written = _write_boxes(replace(settings, video=False), source, kept)
    if rows:
        emit(rows)
    ended = not called_off and not note
    with contextlib.suppress(OSError):  # a later run then tracks all of it again
        save_results(folder, targets, kept, complete=ended and len(kept) < limits.frames)
    return {
        "frames": len(kept),
        "seconds": round(time.monotonic() - begin, 3),
        "files": dict(_role(file) for file in written),
        "stopped": not ended,
        "limited": len(kept) == limits.frames and not called_off,
        "note": note,
    }


def _role(file: Path) -> tuple[str, str]:
    """Under which role the page offers a file, and its name; a folder becomes one file."""
    from vil_tracker.io.box_writers import BOX_FORMATS

    role = next((role for role, (name, _) in BOX_FORMATS.items() if name == file.name), "video")
    if not file.is_dir():
        return role, file.name
    packed = Path(shutil.make_archive(str(file), "zip", file))
    shutil.rmtree(file)
    return role, packed.name


def _is_full(error: BaseException) -> bool:
    """Whether a disk without room is behind an error."""
    causes = (error, error.__cause__)
    return any(isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT) for cause in causes)


def _write_boxes(
    settings: OutputSettings, source: Source, kept: list[tuple[Frame, Mapping[int, Result]]]
) -> list[Path]:
    """The box files alone, from memory; what the video took is free again."""
    from vil_tracker.io.output_folder import OutputFolder

    folder = OutputFolder(settings.folder)
    try:
        outputs = settings.open(folder.path, source)
        for frame, results in kept:
            for output in outputs:
                output.write(frame, results)
        for output in outputs:
            output.finish()
        return folder.publish()
    except BaseException:
        folder.discard()
        raise


def _write_preview(path: Path, image: Any, results: Mapping[int, Result]) -> None:
    import cv2

    from vil_tracker.io.draw import draw_results

    picture = draw_results(image, results)
    scale = min(1.0, _PREVIEW_SIDE / max(picture.shape[:2]))
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 80])
    if done:
        fresh = path.with_suffix(".new")
        fresh.write_bytes(data.tobytes())
        fresh.replace(path)
