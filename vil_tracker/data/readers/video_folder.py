"""Video files with a box file each."""

from __future__ import annotations

import os
from pathlib import Path

from vil_tracker.data.readers.base import Candidate, Item, Listing, Reader, natural_key, pad_boxes, read_boxes
from vil_tracker.data.sequence import Sequence, VideoFrames, make_sequence
from vil_tracker.errors import UserError
from vil_tracker.images import VIDEO_EXTENSIONS, VideoReader


def _boxes_for(video: Path, truth: Path) -> Item:
    with VideoReader(video) as reader:
        frames = reader.frame_count
    boxes = read_boxes(truth)
    if len(boxes) > frames:
        raise UserError(f"{truth} has {len(boxes)} boxes, but {video.name} has {frames} frames: one line per frame")
    return Item(folder=video, frame_names=None, boxes=pad_boxes(boxes, frames), watched=(video, truth))


def video_sequence(video: str | os.PathLike[str], boxes: str | os.PathLike[str]) -> Sequence:
    """One video and its box file as a sequence; frames without a line have no annotation.

    Raises:
        UserError: a file is missing or damaged, or there are more boxes than frames.
    """
    item = _boxes_for(Path(video), Path(boxes))
    return make_sequence(Path(video).stem, "video", VideoFrames(video, len(item.boxes)), item.boxes)


class VideoFolder(Reader):
    """One's own videos: every video file that has a text file of the same name beside it."""

    name = "videos"
    title = "folder of videos with box files"
    splits = ("all",)
    layout = """\
FOLDER/
  any_name.mp4                  (or .avi, .mov, .mkv, .webm …)
  any_name.txt                  x,y,w,h per line, one line per frame"""

    def _videos(self, folder: Path) -> list[Path]:
        try:
            names = {entry.name for entry in os.scandir(folder)}
        except OSError:
            return []
        videos = [n for n in names if Path(n).suffix.lower() in VIDEO_EXTENSIONS and f"{Path(n).stem}.txt" in names]
        return [folder / name for name in sorted(videos, key=natural_key)]

    def matches(self, folder: Path) -> bool:
        return bool(self._videos(folder))

    def list_sequences(self, folder: Path, split: str) -> Listing:
        return Listing(tuple(Candidate(path.stem, path) for path in self._videos(folder)), watched=(folder,))

    def read_sequence(self, folder: Path, candidate: Candidate) -> Item:
        return _boxes_for(candidate.path, candidate.path.with_suffix(".txt"))
