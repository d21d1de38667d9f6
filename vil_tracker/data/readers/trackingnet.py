"""TrackingNet (Müller et al., ECCV 2018): 30,132 training sequences in 12 chunks and 511 test sequences."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from vil_tracker.data.readers.base import Candidate, Item, Listing, Reader, natural_key, numbered_sequence, subfolders
from vil_tracker.errors import UserError

_CHUNKS = tuple(f"TRAIN_{n}" for n in range(12))


class TrackingNet(Reader):
    """TrackingNet as downloaded by its own development kit.

    Frames are numbered from 0 without leading zeros. The test split has a box for the first frame alone. There are
    no occlusion labels.
    """

    name = "trackingnet"
    title = "TrackingNet"
    url = "https://github.com/SilvioGiancola/TrackingNet-devkit"
    splits = ("train", "test", *(chunk.lower() for chunk in _CHUNKS))
    sizes: ClassVar[dict[str, int]] = {"train": 30132, "test": 511}
    layout = """\
TrackingNet/                    (any name)
  TRAIN_0/ … TRAIN_11/          any of them; split train takes all that are there, train_0 … train_11 one
    anno/<sequence>.txt         x,y,w,h per line
    frames/<sequence>/0.jpg …
  TEST/                         as TRAIN_0/, anno/ with the first box alone"""

    def matches(self, folder: Path) -> bool:
        chunks = (child for child in subfolders(folder, limit=2000) if child.name in (*_CHUNKS, "TEST"))
        return any((chunk / "anno").is_dir() for chunk in chunks)

    def list_sequences(self, folder: Path, split: str) -> Listing:
        wanted = _CHUNKS if split == "train" else (split.upper(),)
        chunks = [folder / chunk for chunk in wanted if (folder / chunk / "anno").is_dir()]
        if split != "train" and not chunks:
            raise UserError(f"{folder} has no {wanted[0]}/anno: unpack that part of TrackingNet there")
        candidates = [
            Candidate(truth.stem, truth)
            for chunk in chunks
            for truth in sorted((chunk / "anno").glob("*.txt"), key=lambda path: natural_key(path.name))
        ]
        absent = tuple(f"{chunk}/" for chunk in wanted if folder / chunk not in chunks)
        watched = [folder, *(chunk / part for chunk in chunks for part in ("anno", "frames"))]
        return Listing(tuple(candidates), absent, tuple(watched))

    def read_sequence(self, folder: Path, candidate: Candidate) -> Item:
        truth = candidate.path
        item = numbered_sequence(truth, truth.parent.parent / "frames" / truth.stem, first=0)
        return replace(item, watched=(truth, item.folder))  # the folder of all boxes is the listing's
