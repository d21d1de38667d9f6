"""GOT-10k (Huang et al., TPAMI 2021): 9,335 training, 180 validation and 180 test sequences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from vil_tracker.data.readers.base import (
    Candidate,
    Item,
    Listing,
    Reader,
    listing_of,
    numbered_sequence,
    read_flags,
    read_numbers,
    split_list,
    subfolders,
)

_TRAIN_SIZE = 9335
COVER_LEVELS = 8  # cover.label counts eighths of the target that are visible


def train_names(split: str) -> list[str]:
    """Names of the training sequences in a split of the training set.

    ``vot_train`` and ``vot_val`` are the lists that the field trains and validates with (pytracking's
    got10k_vot_train_split.txt and got10k_vot_val_split.txt): positions in list.txt, where position p is sequence
    number p + 1. The former leaves out the *positions* whose numbers stand on VOT's list of forbidden sequences and so
    is off by one from it; ``vot_allowed`` leaves out the forbidden sequences themselves, for VOT submissions.
    """
    numbers = range(1, _TRAIN_SIZE + 1)
    forbidden = {int(word) for word in split_list("got10k_vot_exclude")}
    held_out = {int(word) for word in split_list("got10k_vot_val")}
    chosen = {
        "train": lambda n: True,
        "vot_train": lambda n: n - 1 not in forbidden and n - 1 not in held_out,
        "vot_val": lambda n: n - 1 in held_out,
        "vot_allowed": lambda n: n not in forbidden,
    }[split]
    return [f"GOT-10k_Train_{n:06d}" for n in numbers if chosen(n)]


def labelled(item: Item) -> Item:
    """The sequence with those of GOT-10k's labels that lie in the folder of its frames.

    Raises:
        UserError: a label file is damaged, or of another length than the boxes.
    """
    count = len(item.boxes)
    absence, cover, cut = labels = [item.folder / f"{name}.label" for name in ("absence", "cover", "cut_by_image")]
    return replace(
        item,
        absent=read_flags(absence, count),
        cover=read_numbers(cover, count, 0, COVER_LEVELS) / COVER_LEVELS if cover.is_file() else None,
        cut=read_flags(cut, count),
        watched=(*item.watched, *(label for label in labels if label.is_file())),
    )


class GOT10k(Reader):
    """GOT-10k as unpacked from its archives.

    ``absence.label`` marks frames without the target, ``cover.label`` counts its visible eighths and
    ``cut_by_image.label`` marks frames whose edge cuts it. The test split has a box for the first frame alone.
    """

    name = "got10k"
    title = "GOT-10k"
    url = "http://got-10k.aitestunion.com/downloads"
    splits = ("train", "vot_train", "vot_val", "vot_allowed", "val", "test")
    sizes: ClassVar[dict[str, int]] = {
        "train": _TRAIN_SIZE,
        "vot_train": 7086,
        "vot_val": 1249,
        "vot_allowed": 8335,
        "val": 180,
        "test": 180,
    }
    layout = """\
GOT-10k/                        (any name)
  train/
    list.txt
    GOT-10k_Train_000001/
      groundtruth.txt           x,y,w,h per line
      absence.label  cover.label  cut_by_image.label      one number per line
      00000001.jpg …
  val/                          GOT-10k_Val_000001/ … as train/
  test/                         GOT-10k_Test_000001/ …, groundtruth.txt with the first box alone"""

    def names(self, split: str) -> tuple[str, ...]:
        if split in ("val", "test"):
            return tuple(f"GOT-10k_{split.title()}_{n:06d}" for n in range(1, self.sizes[split] + 1))
        return tuple(train_names(split))

    def matches(self, folder: Path) -> bool:
        return any(
            sequence.name.startswith("GOT-10k_")
            for part in ("train", "val", "test")
            for sequence in subfolders(folder / part, limit=100)
        )

    def list_sequences(self, folder: Path, split: str) -> Listing:
        part = folder / (split if split in ("val", "test") else "train")
        on_disk = {path.name: path for path in subfolders(part) if path.name.startswith("GOT-10k_")}
        return listing_of(self.names(split), on_disk, [folder, part])

    def read_sequence(self, folder: Path, candidate: Candidate) -> Item:
        return labelled(numbered_sequence(candidate.path / "groundtruth.txt", candidate.path, first=1))
