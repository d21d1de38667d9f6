"""``vil-tracker track LIST.csv``: many videos, each from its box, on processes of this machine or on a Ray cluster.

Each line of the list becomes a folder of results. It is made beside its place and renamed when it is complete, so that
what is there is whole, and the same command passes over it; ``NAME.incomplete`` has what a source gave that broke off.
"""

from __future__ import annotations

import argparse
import csv
import os
import secrets
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vil_tracker.boxes import parse_box
from vil_tracker.config import TrackConfig
from vil_tracker.config.command_line import check_engine_options
from vil_tracker.errors import UserError, make_folder, read_text, reason
from vil_tracker.results import TrackerLike
from vil_tracker.runtime import device_of_process, set_threads
from vil_tracker.tasks import Engine

COLUMNS = ("video", "x", "y", "w", "h", "start")


@dataclass(frozen=True)
class Video:
    """A line of a list: a source, the box on its first frame, where to begin, and the name of its results."""

    source: str
    box: str
    start: str
    name: str


def read_list(path: Path) -> list[Video]:
    """Read lines ``video,x,y,w,h`` or ``video,x,y,w,h,start``, with or without a heading; paths are relative to it.

    UserError, which names the line, where it cannot be read, is empty, or a line is something else.
    """
    try:
        rows = list(csv.reader(read_text(path, "the list").splitlines()))
    except csv.Error as error:
        raise UserError(f"cannot read the list {path} ({reason(error)}): check the path") from error
    videos: list[Video] = []
    names: dict[str, int] = {}
    for number, row in enumerate(rows, start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or tuple(cells) in (COLUMNS, COLUMNS[:5]):
            continue
        if len(cells) not in (5, 6):
            raise UserError(f"{path}:{number}: expected {','.join(COLUMNS)}, found {len(cells)} cells")
        box = ",".join(cells[1:5])
        try:
            parse_box(box)
        except UserError as error:
            raise UserError(f"{path}:{number}: {error}") from error
        stem = Path(cells[0]).stem or "video"
        names[stem] = names.get(stem, 0) + 1
        name = stem if names[stem] == 1 else f"{stem}_{names[stem]}"
        source = cells[0] if "://" in cells[0] else str((path.parent / cells[0]).resolve())
        videos.append(Video(source, box, (cells[5] if len(cells) == 6 else "") or "0", name))
    if not videos:
        raise UserError(f"{path} lists no video: write a line {','.join(COLUMNS)} for each")
    doubles = len(videos) - len({video.name for video in videos})
    if doubles:
        raise UserError(f"{path}: {doubles} videos would have the results' folder of another: rename them")
    return videos


@dataclass(frozen=True)
class ListTracker:
    """Tracks videos of a list in a process of its own; what it needs is picklable."""

    args: argparse.Namespace  # of the command line
    config: TrackConfig  # of the session
    folder: Path  # where the results of all videos go
    load: Callable[..., Callable[[], TrackerLike]]  # vil_tracker.tracking.cli.load_tracker_factory
    track: Callable[..., int]  # vil_tracker.tracking.cli.track

    def __call__(self, place: int) -> Callable[[Video], tuple[int, str]]:
        """Load the network; its user tracks a video and says how many frames it had, or why it could not be."""
        args, device = self.args, device_of_process(self.args.device, place)
        set_threads(args.threads)
        make = self.load(
            args.weights, device, self.config, precision=args.dtype, compiled=args.compile, backend=args.backend
        )

        def work(video: Video) -> tuple[int, str]:
            half = self.folder / f".{video.name}.{secrets.token_hex(4)}.tmp"
            own = argparse.Namespace(**{**vars(args), "source": video.source, "box": [video.box]})
            own.start, own.output, own.quiet = video.start, str(half), True
            frames: list[int] = []
            try:
                status = self.track(own, lambda: make, on_done=lambda summary: frames.append(summary.frames))
                if status:  # a signal, which ends the whole list
                    raise KeyboardInterrupt
                if not (self.folder / video.name).exists():  # a second process may have had the same video
                    os.replace(half, self.folder / video.name)
            except UserError as error:
                # What a source gave before it broke off is complete up to there; the next run tracks it again.
                if half.is_dir() and any(half.iterdir()):
                    kept = self.folder / f"{video.name}.incomplete"
                    shutil.rmtree(kept, ignore_errors=True)
                    os.replace(half, kept)
                return 0, str(error)
            finally:
                shutil.rmtree(half, ignore_errors=True)
            return frames[0], ""

        return work


def track_list(
    args: argparse.Namespace,
    config: TrackConfig,
    load: Callable[..., Callable[[], TrackerLike]],
    track: Callable[..., int],
) -> int:
    """Track every video of the list that has no results yet; returns 0, or 1 where some could not be tracked.

    The arguments are :class:`ListTracker`'s. UserError where the list cannot be read, an option does not go with it,
    or a worker died.
    """
    videos = read_list(Path(args.source))
    for name in ("box", "select", "boxes", "correct", "show"):
        if getattr(args, name):
            raise UserError(f"--{name} is for one video: a list has a box in each line")
    if args.start != "0":
        raise UserError("--start is for one video: a list may have a start in each line")
    check_engine_options(args)
    if args.dtype == "auto" and args.engine == "ray":
        raise UserError("--dtype auto times this machine, and those of a cluster differ: name the precision")
    folder = make_folder(args.output or f"{Path(args.source).stem}_tracked").resolve()
    for half in folder.glob(".*.tmp"):  # of processes that were killed
        shutil.rmtree(half, ignore_errors=True)
    todo = [video for video in videos if not (folder / video.name).exists()]
    engine = Engine(args.engine, args.workers, args.address, args.threads, args.device in ("auto", "cuda"))
    if args.dtype == "auto" and todo:  # once, so that all processes take the same
        import torch

        from vil_tracker.models.precision import choose_precision

        torch.set_num_threads(args.threads)
        args.dtype = choose_precision(args.weights, args.device)
    quiet = getattr(args, "quiet", False)
    if len(todo) < len(videos) and not quiet:
        print(f"{len(videos) - len(todo)} of {len(videos)} videos are done already", file=sys.stderr)
    failed, build = 0, ListTracker(args, config, folder, load, track)
    for count, (number, (frames, fault)) in enumerate(engine.run(build, todo), start=1):
        video = todo[number]
        failed += bool(fault)
        if fault:
            print(f"failed: {video.source}: {fault}", file=sys.stderr)
        elif not quiet:
            print(f"[{count}/{len(todo)}] {video.name}: {frames} frames", file=sys.stderr, flush=True)
    for half in folder.glob(".*.tmp"):
        shutil.rmtree(half, ignore_errors=True)
    if not quiet:
        print(f"{len(videos) - failed} of {len(videos)} videos: {folder}/NAME/")
    return 1 if failed else 0
