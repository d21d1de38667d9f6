"""Box files: CSV, JSON lines, MOT, COCO and YOLO. Every output takes one frame after another and keeps nothing of it in
memory.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Protocol

from vil_tracker.boxes import clip_box, convert
from vil_tracker.errors import UserError, writing
from vil_tracker.io.annotation_writers import CvatTracks, LabelStudioTracks
from vil_tracker.io.source import Frame
from vil_tracker.results import Result


class Output(Protocol):
    """Something written frame by frame.

    Attributes:
        path: the file or folder that it makes.
    """

    path: Path

    def write(self, frame: Frame, results: Mapping[int, Result]) -> None:
        """Take one frame with the results by target id."""

    def finish(self) -> None:
        """Complete what was written."""

    def abandon(self) -> None:
        """Let go of the files without completing them."""


class _TextOutput:
    """A text file, written line by line."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            # Every line reaches the system at once, so that a killed run leaves whole lines.
            self._file: IO[str] = open(path, "w", encoding="utf-8", newline="\n", buffering=1)

    def write(self, frame: Frame, results: Mapping[int, Result]) -> None:
        with writing(self.path):
            for number, result in results.items():
                if line := self._line(frame, number, result):
                    self._file.write(line + "\n")

    def _line(self, frame: Frame, number: int, result: Result) -> str | None:
        raise NotImplementedError

    def finish(self) -> None:
        with writing(self.path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()

    def abandon(self) -> None:
        try:
            self._file.close()
        except OSError:
            pass  # what is left in the buffer does not fit on the disk; the file goes away anyhow


class CsvBoxes(_TextOutput):
    """A table with a row per frame and target, whose first line names the columns: :data:`COLUMNS`.

    Args:
        path: the file.
        keep: leave the file there when it is finished; without, it is only for a run that is killed.
    """

    COLUMNS = "frame,id,x,y,w,h,score,time,state"

    def __init__(self, path: Path, *, keep: bool = True) -> None:
        super().__init__(path)
        self._keep = keep
        with writing(path):
            self._file.write(f"{self.COLUMNS}\n")

    def _line(self, frame: Frame, number: int, result: Result) -> str:
        box = ",".join(f"{value:.3f}" for value in result.box)
        return f"{frame.number},{number},{box},{result.score:.4f},{frame.time:.4f},{result.state}"

    def finish(self) -> None:
        super().finish()
        if not self._keep:
            self.path.unlink()


class JsonLines(_TextOutput):
    """One JSON object per frame and target: frame, time, id, x, y, w, h, score, state."""

    def _line(self, frame: Frame, number: int, result: Result) -> str:
        x, y, w, h = (round(float(value), 3) for value in result.box)
        row = {"frame": frame.number, "time": round(frame.time, 4), "id": number, "x": x, "y": y, "w": w, "h": h}
        return json.dumps(row | {"score": round(float(result.score), 4), "state": result.state})


class MotBoxes(_TextOutput):
    """MOTChallenge: ``frame,id,left,top,width,height,confidence,-1,-1,-1``; frames and pixels are counted from 1.

    Lost targets are left out, as the format has no word for them.
    """

    def _line(self, frame: Frame, number: int, result: Result) -> str | None:
        if result.state == "lost":
            return None
        x, y, w, h = result.box
        return f"{frame.number + 1},{number},{x + 1:.3f},{y + 1:.3f},{w:.3f},{h:.3f},{result.score:.4f},-1,-1,-1"


class CocoBoxes:
    """A COCO detection file: an image per frame, an annotation per target that is not lost (with its ``track_id``).

    Images that are not files of their own (a video's frames) are named by their number, ``000042.jpg``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path):
            self._images = open(path, "w", encoding="utf-8")
            self._annotations: IO[str] = tempfile.TemporaryFile("w+", encoding="utf-8", dir=path.parent)
        category = {"id": 1, "name": "target"}
        self._images.write(f'{{"categories": [{json.dumps(category)}],\n"images": [')
        self._image_count = self._annotation_count = 0

    def write(self, frame: Frame, results: Mapping[int, Result]) -> None:
        height, width = frame.image.shape[:2]
        image = {
            "id": frame.number,
            "file_name": frame.name or f"{frame.number:06d}.jpg",
            "width": width,
            "height": height,
        }
        with writing(self.path):
            self._images.write(",\n" if self._image_count else "\n")
            self._images.write(json.dumps(image))
            self._image_count += 1
            for number, result in results.items():
                if result.state != "lost":
                    self._write_annotation(frame, number, result)

    def _write_annotation(self, frame: Frame, number: int, result: Result) -> None:
        box = [round(float(value), 3) for value in result.box]
        self._annotation_count += 1
        annotation = {
            "id": self._annotation_count,
            "image_id": frame.number,
            "category_id": 1,
            "bbox": box,
            "area": round(box[2] * box[3], 3),
            "iscrowd": 0,
            "track_id": number,
            "score": round(float(result.score), 4),
        }
        self._annotations.write(("\n" if self._annotation_count == 1 else ",\n") + json.dumps(annotation))

    def finish(self) -> None:
        with writing(self.path):
            self._images.write('\n],\n"annotations": [')
            self._annotations.seek(0)
            shutil.copyfileobj(self._annotations, self._images)
            self._annotations.close()
            self._images.write("\n]}\n")
            self._images.flush()
            os.fsync(self._images.fileno())
            self._images.close()

    def abandon(self) -> None:
        for stream in (self._images, self._annotations):
            try:
                stream.close()
            except OSError:
                pass  # as in _TextOutput


class YoloBoxes:
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

    def finish(self) -> None:
        pass

    def abandon(self) -> None:
        pass


BOX_FORMATS: dict[str, tuple[str, Callable[[Path], Output]]] = {
    "csv": ("boxes.csv", CsvBoxes),
    "jsonl": ("boxes.jsonl", JsonLines),
    "mot": ("boxes.mot.txt", MotBoxes),
    "coco": ("boxes.coco.json", CocoBoxes),
    "yolo": ("labels", YoloBoxes),
    "cvat": ("boxes.cvat.xml", CvatTracks),
    "label-studio": ("boxes.label-studio.json", LabelStudioTracks),
}


def parse_formats(text: str) -> tuple[str, ...]:
    """Read ``csv,jsonl``.

    Raises:
        UserError: an unknown format.
    """
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",") if name.strip()))
    unknown = [name for name in names if name not in BOX_FORMATS]
    if unknown or not names:
        given = ", ".join(unknown) or "nothing"
        raise UserError(f"--format: {given} is no box format; choose from {', '.join(BOX_FORMATS)}, joined by commas")
    return names
