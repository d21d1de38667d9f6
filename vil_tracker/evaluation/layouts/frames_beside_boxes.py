"""Folders of sequences whose frames lie beside `groundtruth_rect.txt`."""

from __future__ import annotations

from pathlib import Path

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

_TRUTH = "groundtruth_rect.txt"


class FramesBesideBoxes(Reader):
    """One's own sequences with everything in one folder each."""

    name = "frames_beside_boxes"
    title = "folder of sequences, frames beside groundtruth_rect.txt"
    splits = ("all",)
    layout = """\
FOLDER/                         (or one sequence's folder itself)
  any_name/
    groundtruth_rect.txt        x,y,w,h per line
    0001.jpg …"""

    def _folders(self, folder: Path, limit: int | None = None) -> list[Path]:
        children = [folder] if (folder / _TRUTH).is_file() else subfolders(folder, limit)
        return [child for child in children if (child / _TRUTH).is_file() and not (child / "img").is_dir()]

    def matches(self, folder: Path) -> bool:
        return bool(self._folders(folder, limit=64))

    def list_sequences(self, folder: Path, split: str) -> Listing:
        return Listing(tuple(Candidate(path.name, path) for path in self._folders(folder)), watched=(folder,))

    def read_sequence(self, folder: Path, candidate: Candidate) -> Item:
        path = candidate.path
        frames, boxes, exists = match_frames(list_frames(path), read_boxes(path / _TRUTH), path / _TRUTH)
        return Item(folder=path, frame_names=frames, boxes=boxes, exists=exists, watched=(path, path / _TRUTH))
