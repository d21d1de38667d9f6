"""COCO 2017 instances as stills, and one's own pictures in the same annotation format."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import ijson
import numpy as np

from vil_tracker.data.readers.base import Candidate, Item, Listing, Reader, list_pictures
from vil_tracker.errors import UserError


@dataclass(frozen=True)
class Picture(Candidate):
    """A picture with the boxes of its objects, (K, 4) xywh in pixels."""

    boxes: np.ndarray
    exists: bool


def _entries(path: Path, kind: str, fields: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """The entries of one of the file's two lists, read one by one: the whole file would fill gigabytes."""
    number = -1
    try:
        with path.open("rb") as stream:
            for number, entry in enumerate(ijson.items(stream, f"{kind}.item", use_float=True)):
                lacking = [name for name in fields if not isinstance(entry, dict) or name not in entry]
                if lacking:
                    raise UserError(f"{path}: {kind}[{number}] has no {lacking[0]!r}: see the COCO format")
                yield entry
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}: check the data set's layout") from error
    except (ijson.JSONError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({' '.join(str(error).split())[:120]}): unpack it again") from error
    if number < 0:
        raise UserError(f"{path} lacks the lists 'images' and 'annotations' of the COCO format, or they are empty")


def read_pictures(annotations: Path, images: Path) -> Listing:
    """The pictures of a COCO file that have at least one object; crowds are left out.

    Raises:
        UserError: unreadable file, or an entry that is not of the COCO format; names the entry.
    """
    numbers: dict[Any, int] = {}  # of the pictures that objects belong to
    owners, boxes = array("q"), array("d")
    for number, entry in enumerate(_entries(annotations, "annotations", ("image_id", "bbox"))):
        if entry.get("iscrowd"):
            continue
        try:
            box = [float(value) for value in entry["bbox"]]
        except (TypeError, ValueError):
            box = []
        if len(box) != 4:
            raise UserError(f"{annotations}: annotations[{number}].bbox is {entry['bbox']!r}, expected [x, y, w, h]")
        owners.append(numbers.setdefault(entry["image_id"], len(numbers)))
        boxes.extend(box)
    order = np.argsort(np.array(owners, np.int64), kind="stable")
    boxes_N4 = np.array(boxes, np.float64).reshape(-1, 4)[order]
    starts = np.searchsorted(np.array(owners, np.int64)[order], np.arange(len(numbers) + 1))
    on_disk = set(list_pictures(images))
    pictures = []
    for entry in _entries(annotations, "images", ("id", "file_name")):
        if entry["id"] not in numbers:
            continue
        name = Path(str(entry["file_name"])).name  # pictures lie in one folder; a path here is not trusted
        mine = slice(*starts[numbers[entry["id"]] : numbers[entry["id"]] + 2])
        pictures.append(Picture(Path(name).stem, images / name, boxes_N4[mine], name in on_disk))
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
        return read_pictures(*self._paths(folder, split))

    def count(self, folder: Path, split: str) -> tuple[int, tuple[str, ...]]:
        """Number of pictures on the disk; the annotation file, hundreds of megabytes, is not parsed."""
        annotations, images = self._paths(folder, split)
        if not annotations.is_file():
            raise UserError(f"{annotations} does not exist: unpack annotations_trainval2017.zip in {folder}")
        return sum(name.endswith(".jpg") for name in list_pictures(images)), ()


class StillsFolder(_Stills):
    """One's own pictures with boxes; masks of their objects serve synthetic samples alone."""

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
        return read_pictures(folder / "annotations.json", folder / "images")
