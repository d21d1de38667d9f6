"""Box files: CSV, JSON lines, MOT, COCO, YOLO, and tracks as drafts for CVAT and Label Studio. Every output takes one
frame after another and keeps nothing of it in memory.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO

import numpy as np

from vil_tracker.boxes import clip_box, convert
from vil_tracker.errors import UserError, writing
from vil_tracker.io.source import Frame
from vil_tracker.results import Result

LABEL = "target"


class Output:
    """Something written frame by frame."""

    def write(self, frame: Frame, results: Mapping[int, Result]) -> None:
        """Take one frame with the results by target id."""
        raise NotImplementedError

    def finish(self) -> None:
        """Complete what was written."""

    def abandon(self) -> None:
        """Let go of the files without completing them."""


class _TextFile(Output):
    """A text file that grows frame by frame; parts of it wait in files of their own until it is complete."""

    def __init__(self, path: Path, buffering: int = -1) -> None:
        self.path = path
        with writing(path):
            self._file: IO[str] = open(path, "w", encoding="utf-8", newline="\n", buffering=buffering)
        self._parts: dict[int, IO[str]] = {}

    def _append(self, part: int, text: str, between: str) -> None:
        """Write to the end of a part, with ``between`` before anything but its first text."""
        stream = self._parts.get(part)
        if stream is None:
            stream = tempfile.TemporaryFile("w+", encoding="utf-8", newline="\n", dir=self.path.parent)
            self._parts[part], between = stream, ""
        stream.write(between + text)

    def _take_in(self, part: int) -> None:
        """Write a part, where there is one, to the file itself."""
        if part in self._parts:
            self._parts[part].seek(0)
            shutil.copyfileobj(self._parts[part], self._file)
            self._parts[part].close()

    def _end(self) -> None:
        """Write what stands behind the frames."""

    def finish(self) -> None:
        with writing(self.path):
            self._end()
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def abandon(self) -> None:
        for stream in (self._file, *self._parts.values()):
            try:
                stream.close()
            except OSError:
                pass  # what is left in the buffer does not fit on the disk; the file goes away anyhow


class BoxLines(_TextFile):
    """A line per frame and target, of a function that may leave one out, below a heading.

    Each reaches the system at once, so that a killed run leaves whole lines. Without ``keep`` the file is only for such
    a run, and removed when it is finished.
    """

    def __init__(
        self, path: Path, line: Callable[[Frame, int, Result], str | None], heading: str = "", *, keep: bool = True
    ) -> None:
        super().__init__(path, buffering=1)
        self._line, self._keep = line, keep
        with writing(path):
            self._file.write(heading)

    def write(self, frame: Frame, results: Mapping[int, Result]) -> None:
        with writing(self.path):
            for number, result in results.items():
                if line := self._line(frame, number, result):
                    self._file.write(line + "\n")

    def finish(self) -> None:
        super().finish()
        if not self._keep:
            self.path.unlink()


def _csv_line(frame: Frame, number: int, result: Result) -> str:
    box = ",".join(f"{value:.3f}" for value in result.box)
    return f"{frame.number},{number},{box},{result.score:.4f},{frame.time:.4f},{result.state}"


def _json_line(frame: Frame, number: int, result: Result) -> str:
    x, y, w, h = (round(float(value), 3) for value in result.box)
    row = {"frame": frame.number, "time": round(frame.time, 4), "id": number, "x": x, "y": y, "w": w, "h": h}
    return json.dumps(row | {"score": round(float(result.score), 4), "state": result.state})


def _mot_line(frame: Frame, number: int, result: Result) -> str | None:
    """MOTChallenge counts frames and pixels from 1, and has no word for lost targets."""
    x, y, w, h = result.box
    line = f"{frame.number + 1},{number},{x + 1:.3f},{y + 1:.3f},{w:.3f},{h:.3f},{result.score:.4f},-1,-1,-1"
    return None if result.state == "lost" else line


CsvBoxes = functools.partial(BoxLines, line=_csv_line, heading="frame,id,x,y,w,h,score,time,state\n")


class CocoBoxes(_TextFile):
    """A COCO detection file: an image per frame, an annotation per target that is not lost (with its ``track_id``).

    Images that are not files of their own (a video's frames) are named by their number, ``000042.jpg``.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        category = {"id": 1, "name": LABEL}
        self._file.write(f'{{"categories": [{json.dumps(category)}],\n"images": [')
        self._image_count = self._annotation_count = 0

    def write(self, frame: Frame, results: Mapping[int, Result]) -> None:
        height, width = frame.image.shape[:2]
        name = frame.name or f"{frame.number:06d}.jpg"
        image = {"id": frame.number, "file_name": name, "width": width, "height": height}
        with writing(self.path):
            self._file.write((",\n" if self._image_count else "\n") + json.dumps(image))
            self._image_count += 1
            for number, result in results.items():
                if result.state == "lost":
                    continue
                self._annotation_count += 1
                box = [round(float(value), 3) for value in result.box]
                annotation = {"id": self._annotation_count, "image_id": frame.number, "category_id": 1, "bbox": box}
                annotation |= {"area": round(box[2] * box[3], 3), "iscrowd": 0, "track_id": number}
                annotation["score"] = round(float(result.score), 4)
                self._append(0, "\n" + json.dumps(annotation), ",")

    def _end(self) -> None:
        self._file.write('\n],\n"annotations": [')
        self._take_in(0)
        self._file.write("\n]}\n")


class YoloBoxes(Output):
    """YOLO training labels: a folder with one text file per frame, ``class cx cy w h`` in units of the frame.

    The class is the target's id - 1. Boxes are clipped to the frame; a frame whose targets are lost has an empty file,
    which YOLO reads as background. Labels lie in folders like their pictures; of two pictures that differ in their
    ending alone, the second one's file is named by its whole name, ``a.png.txt``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            path.mkdir()

    def write(self, frame: Frame, results: Mapping[int, Result]) -> None:
        height, width = frame.image.shape[:2]
        lines = []
        for number, result in results.items():
            if result.state != "lost":
                cx, cy, w, h = convert(clip_box(result.box, width, height), "xywh", "cxcywh")
                lines.append(f"{number - 1} {cx / width:.6f} {cy / height:.6f} {w / width:.6f} {h / height:.6f}\n")
        name = self.path / (frame.name or f"{frame.number:06d}")
        file = name.with_suffix(".txt")
        with writing(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.exists():
                file = name.with_name(f"{name.name}.txt")
            file.write_text("".join(lines), encoding="utf-8")


class _TracksApart(_TextFile):
    """A draft for an annotation tool, in which a target's boxes follow one another."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._size = (0, 0)
        self._count, self._time = 0, 0.0  # frames up to the last one, and its time

    def write(self, frame: Frame, results: Mapping[int, Result]) -> None:
        with writing(self.path):
            height, width = frame.image.shape[:2]
            self._size = (width, height)
            self._count, self._time = frame.number + 1, frame.time
            for number, result in results.items():
                box = self._box(frame, result, clip_box(result.box, width, height))
                self._append(number, box, self._between)

    _between = _tail = ""

    def _box(self, frame: Frame, result: Result, box: np.ndarray) -> str:
        raise NotImplementedError

    def _head(self) -> str:
        raise NotImplementedError

    def _around(self, number: int) -> tuple[str, str]:
        """What stands before and behind a target's boxes."""
        raise NotImplementedError

    def _end(self) -> None:
        self._file.write(self._head())
        for position, number in enumerate(sorted(self._parts)):
            before, behind = self._around(number)
            self._file.write((self._between if position else "") + before)
            self._take_in(number)
            self._file.write(behind)
        self._file.write(self._tail)


class CvatTracks(_TracksApart):
    """CVAT for video 1.1: a track per target, every box a key frame, ``outside`` while the target is lost."""

    _tail = "</annotations>\n"

    def _box(self, frame: Frame, result: Result, box: np.ndarray) -> str:
        names = zip(("xtl", "ytl", "xbr", "ybr"), convert(box, "xywh", "xyxy"), strict=True)
        corners = " ".join(f'{name}="{value:.2f}"' for name, value in names)
        outside = int(result.state == "lost")
        return (
            f'    <box frame="{frame.number}" outside="{outside}" occluded="0" keyframe="1" {corners} z_order="0">'
            "</box>\n"
        )

    def _head(self) -> str:
        width, height = self._size
        return f"""<?xml version="1.0" encoding="utf-8"?>
<annotations>
  <version>1.1</version>
  <meta>
    <task>
      <size>{self._count}</size>
      <mode>interpolation</mode>
      <start_frame>0</start_frame>
      <stop_frame>{max(self._count - 1, 0)}</stop_frame>
      <labels><label><name>{LABEL}</name><type>rectangle</type><attributes></attributes></label></labels>
      <original_size><width>{width}</width><height>{height}</height></original_size>
    </task>
  </meta>
"""

    def _around(self, number: int) -> tuple[str, str]:
        return f'  <track id="{number - 1}" label="{LABEL}" source="auto">\n', "  </track>\n"


class LabelStudioTracks(_TracksApart):
    """Label Studio, one task with a prediction: a ``videorectangle`` per target in percent of the frame.

    Frames count from 1. A lost target is disabled until it is found again. ``data.video`` is to be replaced by the
    address under which Label Studio finds the video.
    """

    _between, _tail = ",\n", "\n]}]}]\n"

    def _box(self, frame: Frame, result: Result, box: np.ndarray) -> str:
        width, height = self._size
        x, y, w, h = (round(100 * float(v) / s, 4) for v, s in zip(box, (width, height) * 2, strict=True))
        place = {"x": x, "y": y, "width": w, "height": h, "rotation": 0}
        shown = {"frame": frame.number + 1, "time": round(frame.time, 4), "enabled": result.state != "lost"}
        return json.dumps(shown | place)

    def _head(self) -> str:
        return '[{"data": {"video": "video"}, "predictions": [{"model_version": "vil-tracker", "result": [\n'

    def _around(self, number: int) -> tuple[str, str]:
        entry = {"id": f"target-{number}", "type": "videorectangle", "from_name": "box", "to_name": "video"}
        value = json.dumps({"labels": [LABEL], "framesCount": self._count, "duration": round(self._time, 4)})
        return json.dumps(entry)[:-1] + f', "value": {value[:-1]}, "sequence": [\n', "\n]}}"


BOX_FORMATS: dict[str, tuple[str, Callable[[Path], Output]]] = {
    "csv": ("boxes.csv", CsvBoxes),
    "jsonl": ("boxes.jsonl", functools.partial(BoxLines, line=_json_line)),
    "mot": ("boxes.mot.txt", functools.partial(BoxLines, line=_mot_line)),
    "coco": ("boxes.coco.json", CocoBoxes),
    "yolo": ("labels", YoloBoxes),
    "cvat": ("boxes.cvat.xml", CvatTracks),
    "label-studio": ("boxes.label-studio.json", LabelStudioTracks),
}


def parse_formats(text: str) -> tuple[str, ...]:
    """Read ``csv,jsonl``; UserError for an unknown format."""
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in BOX_FORMATS]
    if unknown or not names:
        given = ", ".join(unknown) or "nothing"
        raise UserError(f"--format: {given} is no box format; choose from {', '.join(BOX_FORMATS)}, joined by commas")
    return names
