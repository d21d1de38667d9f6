"""LaSOT (Fan et al., CVPR 2019): 70 classes × 20 long sequences, protocol II."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from vil_tracker.data.readers.base import (
    Candidate,
    Item,
    Listing,
    Reader,
    listing_of,
    numbered_sequence,
    read_flags,
    split_list,
    subfolders,
)

_EXTENSION = (
    "atv badminton cosplay dancingshoe footbag frisbee jianzi lantern misc opossum paddle raccoon rhino skatingshoe "
    "wingsuit"
).split()


def flagged(truth: Path, images: Path, *, zeros_absent: bool = False) -> Item:
    """A sequence whose frames are numbered from 1, with LaSOT's label files beside its boxes, where there are any; with
    ``zeros_absent`` the target is absent, too, where its box is 0,0,0,0.

    Raises:
        UserError: a file is damaged, there are no frames, or a label file is of another length than the boxes.
    """
    item = numbered_sequence(truth, images, first=1)
    absent = (item.boxes == 0).all(1) & zeros_absent
    labels = [truth.with_name(name) for name in ("full_occlusion.txt", "out_of_view.txt")]
    for flags in (read_flags(label, len(absent)) for label in labels):
        if flags is not None:
            absent = absent | flags
    watched = (*item.watched, *(label for label in labels if label.is_file()))
    return replace(item, absent=absent, cover=np.where(absent, 0.0, 1.0), watched=watched)


class LaSOT(Reader):
    """LaSOT as unpacked from its per-class archives.

    A frame counts as absent where ``full_occlusion.txt`` or ``out_of_view.txt`` is 1, as in the benchmark's own
    toolkit; what stands in ``groundtruth.txt`` there is arbitrary. Boxes are given as annotated (their origin is
    (1, 1) as in Matlab; like the trackers of this field we do not shift them).
    """

    name = "lasot"
    title = "LaSOT"
    url = "http://vision.cs.stonybrook.edu/~lasot/"
    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    sizes: ClassVar[dict[str, int]] = {"train": 1120, "test": 280}
    layout = """\
LaSOT/                          (any name)
  airplane/
    airplane-1/
      groundtruth.txt           x,y,w,h per line
      full_occlusion.txt        0 and 1, one line with commas
      out_of_view.txt           0 and 1, one line with commas
      img/00000001.jpg …
  basketball/ …"""

    def names(self, split: str) -> tuple[str, ...]:
        return split_list(f"lasot_{split}")

    def classes(self) -> tuple[str, ...]:
        """Names of the class folders."""
        return tuple(sorted({name.rpartition("-")[0] for split in self.splits for name in self.names(split)}))

    def matches(self, folder: Path) -> bool:
        known = {name for split in self.splits for name in self.names(split)}
        classes = set(self.classes())
        for group in (group for group in subfolders(folder, limit=2000) if group.name in classes):
            for sequence in subfolders(group, limit=100):
                if sequence.name in known:
                    return (sequence / "img").is_dir() and (sequence / "groundtruth.txt").is_file()
        return False

    def list_sequences(self, folder: Path, split: str) -> Listing:
        groups = [folder / group for group in self.classes() if (folder / group).is_dir()]
        on_disk = {path.name: path for group in groups for path in subfolders(group)}
        return listing_of(self.names(split), on_disk, [folder, *groups])

    def read_sequence(self, folder: Path, candidate: Candidate) -> Item:
        return flagged(candidate.path / "groundtruth.txt", candidate.path / "img")


class LaSOTExtension(LaSOT):
    """LaSOT_ext (Fan et al., IJCV 2021): 15 further classes × 10 sequences, for testing only.

    It is laid out as LaSOT and may lie in LaSOT's own folder or beside it.
    """

    name = "lasot_ext"
    title = "LaSOT_ext"
    splits = ("test",)
    sizes: ClassVar[dict[str, int]] = {"test": 150}
    layout = (
        LaSOT.layout.replace("LaSOT/                 ", "LaSOT_extension_subset/")
        .replace("(any name)", "(any name; LaSOT's own folder is fine)")
        .replace("airplane", "atv")
        .replace("basketball", "badminton")
    )

    def names(self, split: str) -> tuple[str, ...]:
        return tuple(f"{group}-{number}" for group in _EXTENSION for number in range(1, 11))
