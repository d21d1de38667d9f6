"""Folders of sequences as in GOT-10k: the frames beside ``groundtruth.txt``, labels where there are any."""

from __future__ import annotations

from pathlib import Path

from vil_tracker.data.readers.base import Candidate, Item, Listing, Reader, listing_of, matched_sequence, subfolders
from vil_tracker.data.readers.got10k import labelled
from vil_tracker.errors import read_text


class GOT10kLike(Reader):
    """One's own sequences in GOT-10k's layout."""

    name = "got10k_like"
    title = "folder of sequences, frames beside groundtruth.txt"
    splits = ("all",)
    layout = """\
FOLDER/                         (or one sequence's folder itself)
  list.txt                      (optional) names of the sequences to use, one per line
  any_name/
    groundtruth.txt             x,y,w,h per line, or the first box alone
    absence.label  cover.label  cut_by_image.label      (optional) one number per line
    00000001.jpg …"""

    def _names(self, folder: Path, limit: int | None = None) -> list[Path]:
        if (folder / "groundtruth.txt").is_file():
            return [folder]
        return [child for child in subfolders(folder, limit) if (child / "groundtruth.txt").is_file()]

    def matches(self, folder: Path) -> bool:
        return any(not (child / "img").is_dir() for child in self._names(folder, limit=64))

    def list_sequences(self, folder: Path, split: str) -> Listing:
        on_disk = {path.name: path for path in self._names(folder)}
        chosen, watched = folder / "list.txt", [folder]
        if not chosen.is_file():
            names = list(on_disk)
        else:
            watched.append(chosen)
            names = [line.strip() for line in read_text(chosen, "list").splitlines() if line.strip()]
        return listing_of(names, on_disk, watched)

    def read_sequence(self, folder: Path, candidate: Candidate) -> Item:
        return labelled(matched_sequence(candidate.path / "groundtruth.txt", candidate.path))
