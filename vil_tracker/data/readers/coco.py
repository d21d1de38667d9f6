"""COCO 2017 instances as stills, and one's own pictures in the same annotation format."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vil_tracker.data.readers.base import Candidate, Item, Listing, Reader
from vil_tracker.errors import UserError


@dataclass(frozen=True)
class Picture(Candidate):
    """A picture with the boxes of its objects, (K, 4) xywh in pixels, and their mask files ("" for none)."""

    boxes: np.ndarray
    masks: tuple[str, ...]
    exists: bool


def _load(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}: check the data set's layout") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): unpack it again") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in ("images", "annotations")):
        raise UserError(f"{path} lacks the lists 'images' and 'annotations' of the COCO format")
    return content


def _entry(path: Path, kind: str, number: int, entry: Any, fields: tuple[str, ...]) -> dict[str, Any]:
    lacking = [name for name in fields if not isinstance(entry, dict) or name not in entry]
    if lacking:
        raise UserError(f"{path}: {kind}[{number}] has no {lacking[0]!r}: see the COCO format")
    return entry


def read_pictures(annotations: Path, images: Path, masks: Path | None = None) -> Listing:
    """The pictures of a COCO file that have at least one object; crowds are left out.

    Raises:
        UserError: unreadable file, or an entry that is not of the COCO format; names the entry.
    """
    content = _load(annotations)
    boxes: dict[Any, list[list[float]]] = defaultdict(list)
    files: dict[Any, list[str]] = defaultdict(list)
    for number, raw in enumerate(content["annotations"]):
        entry = _entry(annotations, "annotations", number, raw, ("image_id", "bbox"))
        if entry.get("iscrowd"):
            continue
        try:
            box = [float(value) for value in entry["bbox"]]
        except (TypeError, ValueError):
            box = []
        if len(box) != 4:
            raise UserError(f"{annotations}: annotations[{number}].bbox is {entry['bbox']!r}, expected [x, y, w, h]")
        boxes[entry["image_id"]].append(box)
        files[entry["image_id"]].append(str(entry.get("mask_file") or ""))
    try:
        with os.scandir(images) as entries:
            on_disk = {e.name for e in entries}
    except OSError as error:
        raise UserError(f"cannot list the pictures in {images}: {error.strerror}: check the layout") from error
    pictures = []
    for number, raw in enumerate(content["images"]):
        entry = _entry(annotations, "images", number, raw, ("id", "file_name"))
        if entry["id"] not in boxes:
            continue
        name = Path(str(entry["file_name"])).name  # pictures lie in one folder; a path here is not trusted
        with_masks = any(files[entry["id"]]) and masks is not None
        pictures.append(
            Picture(
                name=Path(name).stem,
                path=images / name,
                boxes=np.array(boxes[entry["id"]]),
                masks=tuple(f"{masks}/{Path(f).name}" if f else "" for f in files[entry["id"]]) if with_masks else (),
                exists=name in on_disk,
            )
        )
    return Listing(tuple(pictures), watched=(annotations, images))


class _Stills(Reader):
    """What the two readers of COCO's format share: each object of a picture is a sequence of one frame."""

    stills = True

    def read_sequence(self, folder: Path, candidate: Candidate) -> Item:
        assert isinstance(candidate, Picture)
        return Item(
            folder=candidate.path.parent,
            frame_names=[candidate.path.name],
            boxes=candidate.boxes,
            exists=np.full(len(candidate.boxes), candidate.exists),
            masks=candidate.masks,
        )


class COCO(_Stills):
    """COCO 2017 (Lin et al., ECCV 2014), instances."""

    name = "coco"
    title = "COCO 2017"
    url = "https://cocodataset.org/#download"
    splits = ("train", "val")
    sizes: ClassVar[dict[str, int]] = {"train": 118287, "val": 5000}
    layout = """\
COCO/                           (any name)
  annotations/instances_train2017.json  instances_val2017.json
  train2017/000000000009.jpg …  (or images/train2017/)
  val2017/                      (or images/val2017/)"""

    def _paths(self, folder: Path, split: str) -> tuple[Path, Path]:
        nested = folder / "images" / f"{split}2017"
        images = nested if nested.is_dir() else folder / f"{split}2017"
        return folder / "annotations" / f"instances_{split}2017.json", images

    def matches(self, folder: Path) -> bool:
        return any(self._paths(folder, split)[0].is_file() for split in self.splits)

    def list_sequences(self, folder: Path, split: str) -> Listing:
        self.check_split(split)
        return read_pictures(*self._paths(folder, split))

    def count(self, folder: Path, split: str) -> tuple[int, tuple[str, ...]]:
        """Number of pictures on the disk; the annotation file, hundreds of megabytes, is not parsed."""
        self.check_split(split)
        annotations, images = self._paths(folder, split)
        if not annotations.is_file():
            raise UserError(f"{annotations} does not exist: unpack annotations_trainval2017.zip in {folder}")
        try:
            with os.scandir(images) as entries:
                return sum(entry.name.endswith(".jpg") for entry in entries), ()
        except OSError as error:
            raise UserError(f"cannot list the pictures in {images}: {error.strerror}: unpack them there") from error


class StillsFolder(_Stills):
    """One's own pictures with boxes and, where there are any, object masks."""

    name = "stills"
    title = "folder of annotated pictures"
    splits = ("all",)
    layout = """\
FOLDER/
  annotations.json              COCO format; an annotation may name its "mask_file"
  images/*.jpg
  masks/*.png                   (optional) one binary mask per object"""

    def matches(self, folder: Path) -> bool:
        return (folder / "annotations.json").is_file() and (folder / "images").is_dir()

    def list_sequences(self, folder: Path, split: str) -> Listing:
        return read_pictures(folder / "annotations.json", folder / "images", folder / "masks")
