"""Box files: CSV, JSON lines, MOT, COCO and YOLO; and the folder in which a run's files appear all at once.

Every output takes one frame after another, keeps nothing of it in memory, and writes into a hidden folder beside the
final place; :class:`OutputFolder` moves the finished files there. So an error leaves the files of an earlier run as
they were, and an interrupted run leaves files that are complete up to that frame.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Protocol

from vil_tracker.boxes import clip_box, convert
from vil_tracker.errors import UserError, make_folder, writing
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
            self._file: IO[str] = open(path, "w", encoding="utf-8", newline="\n")

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
    """``frame,id,x,y,w,h,score``: one row per frame and target."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file.write("frame,id,x,y,w,h,score\n")

    def _line(self, frame: Frame, number: int, result: Result) -> str:
        x, y, w, h = result.box
        return f"{frame.number},{number},{x:.3f},{y:.3f},{w:.3f},{h:.3f},{result.score:.4f}"


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


BOX_FORMATS: dict[str, tuple[str, type[CsvBoxes | JsonLines | MotBoxes | CocoBoxes | YoloBoxes]]] = {
    "csv": ("boxes.csv", CsvBoxes),
    "jsonl": ("boxes.jsonl", JsonLines),
    "mot": ("boxes.mot.txt", MotBoxes),
    "coco": ("boxes.coco.json", CocoBoxes),
    "yolo": ("labels", YoloBoxes),
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


class OutputFolder:
    """The place of a run's files: made hidden beside it, moved there when complete.

    Args:
        path: the folder; made where it does not exist, and removed again by :meth:`discard`.

    Raises:
        UserError: it cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with writing(self.path):
            self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        make_folder(self.path)
        try:
            with writing(self.path):
                self.staging = Path(tempfile.mkdtemp(prefix=".vil-tracker-", dir=self.path))
        except UserError:
            self._remove_made()
            raise

    def publish(self, outputs: Sequence[Output]) -> list[Path]:
        """Move what the outputs made into place, replacing files of an earlier run, and return the final paths."""
        final = []
        with writing(self.path):
            for output in outputs:
                for made in self._made_by(output):
                    target = self.path / made.name
                    if target.is_dir() and not target.is_symlink():
                        target.rename(self.staging / f"old-{made.name}")
                    made.replace(target)
                    final.append(target)
            shutil.rmtree(self.staging)
        return final

    def _made_by(self, output: Output) -> list[Path]:
        """An output makes the one file at its path, or several whose names begin with its stem and a hyphen."""
        if output.path.exists():
            return [output.path]
        return sorted(self.staging.glob(f"{output.path.stem}-*{output.path.suffix}"))

    def discard(self) -> None:
        """Remove everything that was begun; an earlier run's files stay."""
        shutil.rmtree(self.staging, ignore_errors=True)
        self._remove_made()

    def _remove_made(self) -> None:
        for folder in self._made:
            try:
                folder.rmdir()
            except OSError:  # somebody else put a file there meanwhile, or it was never made
                return
