"""TNL2K (Wang et al., CVPR 2021): 1,300 training and 700 test sequences with a sentence each (not used here)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from vil_tracker.data.readers.base import (
    Candidate,
    Item,
    Listing,
    Reader,
    matched_sequence,
    natural_key,
    subfolders,
    with_official_absent,
)
from vil_tracker.errors import UserError

_FOLDERS = {"train": ("TNL2K_train_subset", "train"), "test": ("TNL2K_test_subset", "test")}


def _is_sequence(folder: Path) -> bool:
    return (folder / "groundtruth.txt").is_file() and (folder / "imgs").is_dir()


class TNL2K(Reader):
    """TNL2K as unpacked; frame names follow no common pattern, so they are taken in order.

    Frames without the target are those of the toolkit's absent flags, where those are there; elsewhere boxes of
    0,0,0,0 mark them.
    """

    name = "tnl2k"
    title = "TNL2K"
    url = "https://github.com/wangxiao5791509/TNL2K_evaluation_toolkit"
    splits = ("train", "test")
    sizes: ClassVar[dict[str, int]] = {"train": 1300, "test": 700}
    layout = """\
TNL2K/                          (any name)
  TNL2K_train_subset/           (or train/)
    Arrow_Video_ZZ04_done/      (or one folder deeper, as in the archives' parts)
      groundtruth.txt           x,y,w,h per line
      language.txt
      imgs/*.jpg or *.png
  TNL2K_test_subset/            (or test/) as above
  annos/absent/*.txt            (optional) the toolkit's flags, 0 or 1 per frame; also absent/ or SEQUENCE/absent.txt"""

    def _parts(self, folder: Path, split: str) -> list[Path]:
        return [folder / name for name in _FOLDERS[split] if (folder / name).is_dir()]

    def matches(self, folder: Path) -> bool:
        for part in (part for split in self.splits for part in self._parts(folder, split)):
            for child in subfolders(part, limit=100):
                inside = (child / "groundtruth.txt").is_file()
                for sequence in [child] if inside else subfolders(child, limit=100):
                    if (sequence / "groundtruth.txt").is_file():  # GOT-10k's are no TNL2K either: one of them tells
                        return _is_sequence(sequence) and (sequence / "language.txt").is_file()
        return False

    def list_sequences(self, folder: Path, split: str) -> Listing:
        parts = self._parts(folder, split)
        if not parts:
            raise UserError(f"{folder} has no {_FOLDERS[split][0]}/: unpack TNL2K's {split} archives there")
        watched, found = [folder, *parts], []
        for child in (child for part in parts for child in subfolders(part)):
            if _is_sequence(child):
                found.append(child)
            elif child.name != "revised_annotations":
                watched.append(child)
                found += [sequence for sequence in subfolders(child) if _is_sequence(sequence)]
        found.sort(key=lambda path: natural_key(path.name))
        return Listing(tuple(Candidate(path.name, path) for path in found), watched=tuple(watched))

    def read_sequence(self, folder: Path, candidate: Candidate) -> Item:
        item = matched_sequence(candidate.path / "groundtruth.txt", candidate.path / "imgs")
        item = replace(item, absent=(item.boxes == 0).all(1))
        return with_official_absent(item, folder, candidate.path)
