"""Video files with a box file each."""

from __future__ import annotations

import os
from pathlib import Path

from vil_tracker.data.readers.base import Candidate, Item, Listing, Reader, natural_key, pad_boxes, read_boxes
from vil_tracker.data.sequence import Sequence, VideoFrames, make_sequence
from vil_tracker.errors import UserError, read_text
from vil_tracker.videos import VIDEO_EXTENSIONS, count_frames


def _boxes_for(video: Path, truth: Path) -> Item:
    frames = count_frames(video)
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


HELD_OUT = "validation.txt"


def held_out_targets(folder: Path) -> frozenset[str]:
    """Names in a folder's ``validation.txt``: targets that nothing is trained on. Empty where there is no such list.

    Raises:
        UserError: the list cannot be read.
    """
    path = folder / HELD_OUT
    return frozenset(read_text(path, "list").split()) if path.is_file() else frozenset()


class VideoFolder(Reader):
    """One's own videos: every video file that has a box file of the same name beside it, or one for each target."""

    name = "videos"
    title = "folder of videos with box files"
    splits = ("all", "train", "validation")
    layout = """\
FOLDER/
  any_name.mp4                  (or .avi, .mov, .mkv, .webm …)
  any_name.txt                  x,y,w,h per line, one line per frame; several targets: any_name_1.txt, any_name_2.txt …
  validation.txt                (optional) names of targets that are held out of training, one per line"""

    def _targets(self, folder: Path) -> list[Candidate]:
        """Every target with its video."""
        try:
            names = {entry.name for entry in os.scandir(folder)}
        except OSError:
            return []
        found = []
        for video in (name for name in names if Path(name).suffix.lower() in VIDEO_EXTENSIONS):
            stem = Path(video).stem
            if f"{stem}.txt" in names:
                found.append(Candidate(stem, folder / video))
                continue
            number = 1
            while f"{stem}_{number}.txt" in names:
                found.append(Candidate(f"{stem}_{number}", folder / video))
                number += 1
        return sorted(found, key=lambda candidate: natural_key(candidate.name))

    def matches(self, folder: Path) -> bool:
        return bool(self._targets(folder))

    def list_sequences(self, folder: Path, split: str) -> Listing:
        targets, held_out = self._targets(folder), held_out_targets(folder)
        unknown = sorted(held_out - {target.name for target in targets})
        if unknown:
            raise UserError(f"{folder / HELD_OUT} names {unknown[0]}, but there is no such video with boxes")
        if split == "validation":
            if not held_out:
                raise UserError(f"{folder} has no {HELD_OUT}: list there the targets of the split validation")
            targets = [target for target in targets if target.name in held_out]
        elif split == "train":  # no target of a video of which another one is held out, either
            videos = {target.path for target in targets if target.name in held_out}
            targets = [target for target in targets if target.path not in videos]
        watched = [folder, *([folder / HELD_OUT] if held_out else [])]
        return Listing(tuple(targets), watched=tuple(watched))

    def read_sequence(self, folder: Path, candidate: Candidate) -> Item:
        return _boxes_for(candidate.path, folder / f"{candidate.name}.txt")
