"""OTB (Wu, Lim, Yang: PAMI 2015): 100 targets in 98 videos, with the subsets OTB-2013 and OTB-50.

The oddities that the official configuration handles live in `splits/otb.txt`: sequences that use only part of their
frames (David from 300, BlurCar1 from 247, BlurCar3, BlurCar4, Tiger1 without its first five, the ends of Diving,
Football1, Freeman3 and Freeman4), and videos with two targets (Jogging, Skating2, and Human4, whose second counts).
"""

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
)

_ATTRIBUTES = {
    "IV": "Illumination Variation",
    "SV": "Scale Variation",
    "OCC": "Occlusion",
    "DEF": "Deformation",
    "MB": "Motion Blur",
    "FM": "Fast Motion",
    "IPR": "In-Plane Rotation",
    "OPR": "Out-of-Plane Rotation",
    "OV": "Out-of-View",
    "BC": "Background Clutter",
    "LR": "Low Resolution",
}


class OTB(Reader):
    """OTB as unpacked from its per-sequence archives."""

    name = "otb"
    title = "OTB"
    url = "http://cvlab.hanyang.ac.kr/tracker_benchmark/"
    splits = ("2013", "50", "100")
    sizes: ClassVar[dict[str, int]] = {"2013": 51, "50": 50, "100": 100}
    layout = """\
OTB/                            (any name)
  Basketball/
    groundtruth_rect.txt        x,y,w,h per line; commas, tabs or blanks
    img/0001.jpg …
  Jogging/
    groundtruth_rect.1.txt  groundtruth_rect.2.txt
    img/0001.jpg …"""

    def names(self, split: str) -> tuple[str, ...]:
        """The second target of a video is NAME-2."""
        return tuple(row[0] for row in read_list("otb") if split in row[5].split(","))

    def matches(self, folder: Path) -> bool:
        return any((folder / name / "img").is_dir() for name in ("Basketball", "Bolt", "Car4", "Deer", "Jogging"))

    def list_sequences(self, folder: Path, split: str) -> Listing:
        on_disk = {row[0]: folder / row[1] for row in read_list("otb") if (folder / row[1] / "img").is_dir()}
        return listing_of(self.names(split), on_disk, [folder])

    def read_sequence(self, folder: Path, candidate: Candidate) -> Item:
        row = next(row for row in read_list("otb") if row[0] == candidate.name)
        target, first, last = int(row[2]), int(row[3]), int(row[4])
        path = candidate.path
        truth = path / (f"groundtruth_rect.{target}.txt" if target else "groundtruth_rect.txt")
        boxes = read_boxes(truth)
        if len(boxes) >= last:  # of every frame from the first (Tiger1), not of the official range alone (David)
            boxes = boxes[first - 1 : last]
        attributes = tuple(_ATTRIBUTES[short] for short in row[6].split(","))
        return ranged_sequence(truth, boxes, path / "img", first, last, attributes)
