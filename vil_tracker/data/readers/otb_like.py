"""Folders of sequences as in OTB: the frames in ``img/`` and a box file beside it, or all in one folder."""

from __future__ import annotations

from pathlib import Path

from vil_tracker.data.readers.base import Candidate, Item, Listing, Reader, matched_sequence, subfolders

_TRUTHS = ("groundtruth_rect.txt", "groundtruth.txt")


def truth_files(sequence: Path) -> dict[str, Path]:
    """Box files of a sequence folder by sequence name; ``groundtruth_rect.2.txt`` in ``Jogging`` is ``Jogging-2``."""
    for name in _TRUTHS:
        if (sequence / name).is_file():
            return {sequence.name: sequence / name}
    targets = sorted(sequence.glob("groundtruth_rect.[0-9].txt"))
    return {f"{sequence.name}-{path.name.split('.')[1]}": path for path in targets}


class OTBLike(Reader):
    """One's own sequences in OTB's layout, one target or several in each."""

    name = "otb_like"
    title = "folder of sequences, frames in img/"
    splits = ("all",)
    layout = """\
FOLDER/                         (or one sequence's folder itself)
  any_name/
    groundtruth_rect.txt        x,y,w,h per line; comma, tab or blank between (groundtruth.txt is fine;
                                groundtruth_rect.1.txt, .2.txt for several targets)
    img/0001.jpg …"""

    def _images(self, sequence: Path) -> Path:
        """Where a sequence's frames lie."""
        return sequence / "img"

    def _is_sequence(self, folder: Path) -> bool:
        return (folder / "img").is_dir() and bool(truth_files(folder))

    def _folders(self, folder: Path, limit: int | None = None) -> list[Path]:
        if self._is_sequence(folder):
            return [folder]
        return [child for child in subfolders(folder, limit) if self._is_sequence(child)]

    def matches(self, folder: Path) -> bool:
        return bool(self._folders(folder, limit=64))

    def list_sequences(self, folder: Path, split: str) -> Listing:
        found = [Candidate(n, p) for child in self._folders(folder) for n, p in truth_files(child).items()]
        return Listing(tuple(found), watched=(folder,))

    def read_sequence(self, folder: Path, candidate: Candidate) -> Item:
        return matched_sequence(candidate.path, self._images(candidate.path.parent))


class FramesBesideBoxes(OTBLike):
    """One's own sequences with everything in one folder each."""

    name = "frames_beside_boxes"
    title = "folder of sequences, frames beside groundtruth_rect.txt"
    layout = """\
FOLDER/                         (or one sequence's folder itself)
  any_name/
    groundtruth_rect.txt        x,y,w,h per line
    0001.jpg …"""

    def _images(self, sequence: Path) -> Path:
        return sequence

    def _is_sequence(self, folder: Path) -> bool:
        return (folder / "groundtruth_rect.txt").is_file() and not (folder / "img").is_dir()
