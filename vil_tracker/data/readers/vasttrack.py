"""VastTrack (Peng et al., NeurIPS 2024): 2,115 classes; 47,110 training and 3,500 test sequences."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from vil_tracker.data.readers.base import Candidate, Item, Listing, Reader, subfolders, with_official_absent
from vil_tracker.data.readers.lasot import flagged
from vil_tracker.errors import UserError

_FOLDERS = {"train": ("unisot_train_final_backup", "train"), "test": ("unisot_final_test", "test")}


def _truth(sequence: Path) -> Path | None:
    for name in ("Groundtruth.txt", "groundtruth.txt"):
        if (sequence / name).is_file():
            return sequence / name
    return None


class VastTrack(Reader):
    """VastTrack as unpacked from its archives.

    Frames without the target are those of the toolkit's absent flags, where those are there; elsewhere those with a box
    of 0,0,0,0 or a label of occlusion or absence.
    """

    name = "vasttrack"
    title = "VastTrack"
    url = "https://github.com/HengLan/VastTrack"
    splits = ("train", "test")
    sizes: ClassVar[dict[str, int]] = {"train": 47110, "test": 3500}
    layout = """\
VastTrack/                      (any name)
  unisot_train_final_backup/    (or train/)
    Aardwolf/
      Aardwolf-2/
        Groundtruth.txt         x,y,w,h per line (groundtruth.txt is fine)
        full_occlusion.txt  out_of_view.txt       0 and 1, where there are any
        imgs/00001.jpg …
  unisot_final_test/            (or test/) as above
  annos/absent/*.txt            (optional) the toolkit's flags, 0 or 1 per frame; also absent/ or SEQUENCE/absent.txt"""

    def matches(self, folder: Path) -> bool:
        for name in (name for names in _FOLDERS.values() for name in names):
            for group in subfolders(folder / name, limit=10):  # GOT-10k's train/ has thousands of other folders
                for sequence in subfolders(group, limit=100):
                    if (sequence / "imgs").is_dir() and _truth(sequence) is not None:
                        return sequence.name.startswith(f"{group.name}-")
        return False

    def list_sequences(self, folder: Path, split: str) -> Listing:
        part = next((folder / name for name in _FOLDERS[split] if (folder / name).is_dir()), None)
        if part is None:
            raise UserError(f"{folder} has no {_FOLDERS[split][0]}/: unpack VastTrack's {split} archives there")
        groups = subfolders(part)
        candidates = tuple(Candidate(path.name, path) for group in groups for path in subfolders(group))
        return Listing(candidates, watched=(folder, part, *groups))

    def read_sequence(self, folder: Path, candidate: Candidate) -> Item:
        path = candidate.path
        truth = _truth(path)
        if truth is None:
            raise UserError(f"{path} has no Groundtruth.txt: unpack the sequence again")
        return with_official_absent(flagged(truth, path / "imgs", zeros_absent=True), folder, path)
