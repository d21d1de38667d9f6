"""Folders of sequences whose frames lie beside `groundtruth_rect.txt`."""

from __future__ import annotations

from pathlib import Path

from vil_tracker.data.readers.otb_like import OTBLike


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
