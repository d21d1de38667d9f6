"""UAV123 and UAV20L (Mueller, Smith, Ghanem: ECCV 2016): videos from drones, cut into sub-sequences."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from vil_tracker.data.readers.base import (
    Candidate,
    Item,
    Listing,
    Reader,
    listing_of,
    ranged_sequence,
    read_boxes,
    read_list,
    read_numbers,
)

_ATTRIBUTES = (
    "Scale Variation",
    "Aspect Ratio Change",
    "Low Resolution",
    "Fast Motion",
    "Full Occlusion",
    "Partial Occlusion",
    "Out-of-View",
    "Background Clutter",
    "Illumination Variation",
    "Viewpoint Change",
    "Camera Motion",
    "Similar Object",
)


class UAV123(Reader):
    """UAV123 at 30 fps as unpacked from its archives; NaN rows in the box files mark frames without the target."""

    name = "uav123"
    title = "UAV123"
    url = "https://cemse.kaust.edu.sa/ivul/uav123"
    splits = ("test",)
    sizes: ClassVar[dict[str, int]] = {"test": 123}
    layout = """\
UAV123/                         (any name)
  data_seq/UAV123/
    bike1/000001.jpg …
  anno/
    UAV123/bike1.txt …          x,y,w,h per line, NaN without target
    UAV123/att/bike1.txt …      twelve attribute flags (optional)
    UAV20L/ …"""

    def names(self, split: str) -> tuple[str, ...]:
        return tuple(row[0] for row in read_list(self.name))

    def matches(self, folder: Path) -> bool:
        return (folder / "data_seq" / "UAV123").is_dir() and (folder / "anno" / self.title).is_dir()

    def list_sequences(self, folder: Path, split: str) -> Listing:
        images, truths = folder / "data_seq" / "UAV123", folder / "anno" / self.title
        on_disk = {
            name: images / group
            for name, group, _, _ in read_list(self.name)
            if (images / group).is_dir() and (truths / f"{name}.txt").is_file()
        }
        return listing_of(self.names(split), on_disk, [folder, images, truths])

    def read_sequence(self, folder: Path, candidate: Candidate) -> Item:
        _, _, first, last = next(row for row in read_list(self.name) if row[0] == candidate.name)
        truths = folder / "anno" / self.title
        truth, labels = truths / f"{candidate.name}.txt", truths / "att" / f"{candidate.name}.txt"
        flags = read_numbers(labels, len(_ATTRIBUTES), 0, 1) if labels.is_file() else [0] * len(_ATTRIBUTES)
        attributes = tuple(name for name, flag in zip(_ATTRIBUTES, flags, strict=True) if flag)
        return ranged_sequence(truth, read_boxes(truth), candidate.path, int(first), int(last), attributes)


class UAV20L(UAV123):
    """The 20 long sequences of the same videos."""

    name = "uav20l"
    title = "UAV20L"
    sizes: ClassVar[dict[str, int]] = {"test": 20}
