"""DTB70 (Li, Yeung: AAAI 2017): 70 videos from drones."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from vil_tracker.data.readers.base import (
    Candidate,
    Item,
    Listing,
    Reader,
    list_frames,
    match_frames,
    read_boxes,
    subfolders,
)


class DTB70(Reader):
    """DTB70 as unpacked from its archive. Its sequences are those with a box file; there is no list besides them."""

    name = "dtb70"
    title = "DTB70"
    url = "https://github.com/flyers/drone-tracking"
    splits = ("test",)
    sizes: ClassVar[dict[str, int]] = {"test": 70}
    layout = """\
DTB70/                          (any name)
  Animal1/
    groundtruth_rect.txt        x,y,w,h per line
    img/00001.jpg …
  Animal2/ …"""

    def matches(self, folder: Path) -> bool:
        return any((folder / name / "img").is_dir() for name in ("Animal1", "Surfing06", "Gull1", "ChasingDrones"))

    def list_sequences(self, folder: Path, split: str) -> Listing:
        self.check_split(split)
        found = [path for path in subfolders(folder) if (path / "groundtruth_rect.txt").is_file()]
        return Listing(tuple(Candidate(path.name, path) for path in found), watched=(folder,))

    def read_sequence(self, folder: Path, candidate: Candidate) -> Item:
        truth = candidate.path / "groundtruth_rect.txt"
        frames, boxes, exists = match_frames(list_frames(candidate.path / "img"), read_boxes(truth), truth)
        return Item(
            folder=candidate.path / "img",
            frame_names=frames,
            boxes=boxes,
            exists=exists,
            watched=(candidate.path, truth),
        )
