"""Need for Speed (Kiani Galoogahi et al., ICCV 2017): 100 videos at 240 fps, and the same at 30 fps."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from vil_tracker.data.readers.base import (
    Candidate,
    Item,
    Listing,
    Reader,
    list_frames,
    listing_of,
    read_boxes,
    read_list,
)
from vil_tracker.errors import UserError, read_text

_STRIDE = 8  # 240 fps / 30 fps


class NfS(Reader):
    """NfS as unpacked from its per-sequence archives, or in the layout that pytracking's users keep (30 fps only).

    The original annotation has one line per frame at 240 fps: track, x1, y1, x2, y2, frame, lost, occluded, generated,
    label. At 30 fps every eighth line counts. A difference of one frame between boxes and pictures is cut off, as all
    toolkits do.
    """

    name = "nfs"
    title = "Need for Speed"
    url = "http://ci2cv.net/nfs/index.html"
    splits = ("30", "240")
    sizes: ClassVar[dict[str, int]] = {"30": 100, "240": 100}
    layout = """\
NfS/                            (any name)
  airboard_1/
    30/airboard_1.txt           track x1 y1 x2 y2 frame lost occluded generated "label"
    30/airboard_1/00001.jpg …
    240/ …                      as 30/
or, for 30 fps,
  anno/nfs_airboard_1.txt       x y w h per line
  sequences/airboard_1/00001.jpg …"""

    def names(self, split: str) -> tuple[str, ...]:
        return tuple(row[0] for row in read_list("nfs"))

    def matches(self, folder: Path) -> bool:
        known = self.names("30")
        if (folder / "sequences").is_dir() and (folder / "anno").is_dir():
            return any((folder / "sequences" / name).is_dir() for name in known)
        return any((folder / name / rate).is_dir() for name in known for rate in self.splits)

    def list_sequences(self, folder: Path, split: str) -> Listing:
        converted = split == "30" and (folder / "sequences").is_dir()
        on_disk = {}
        for name in self.names(split):
            path = folder / "sequences" / name if converted else folder / name / split / name
            if path.is_dir():
                on_disk[name] = path
        return listing_of(self.names(split), on_disk, [folder])

    def read_sequence(self, folder: Path, candidate: Candidate) -> Item:
        name, path = candidate.name, candidate.path
        frames = list_frames(path)
        if path.parent.name == "sequences":
            truth = folder / "anno" / f"nfs_{name}.txt"
            boxes, absent = read_boxes(truth), None
        else:
            truth = path.parent / f"{name}.txt"
            boxes, absent = _read_original(truth)
            if path.parent.name == "30" and len(boxes) > 4 * len(frames):
                boxes, absent = boxes[::_STRIDE], absent[::_STRIDE]
        if abs(len(boxes) - len(frames)) > 1:
            raise UserError(f"{truth} has {len(boxes)} boxes, but {path} has {len(frames)} pictures: unpack it again")
        count = min(len(boxes), len(frames))
        return Item(
            folder=path,
            frame_names=frames[:count],
            boxes=boxes[:count],
            absent=None if absent is None else absent[:count],
            watched=(path, truth),
        )


def _read_original(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (N, 4) x, y, w, h and the lost flags (N,) of an annotation file in the original format."""
    rows = []
    for number, line in enumerate(read_text(path, "box file").splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        try:
            rows.append([float(word) for word in words[1:7]])
        except ValueError:
            rows.append([])
        if len(rows[-1]) != 6:
            raise UserError(f"{path}:{number}: expected 'track x1 y1 x2 y2 frame lost …', found {line[:60]!r}")
    if not rows:
        raise UserError(f"{path} is empty: expected one line per frame")
    table = np.array(rows)
    return np.concatenate([table[:, :2], table[:, 2:4] - table[:, :2]], axis=1), table[:, 5] != 0
