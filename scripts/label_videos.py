"""Give videos without boxes some, by tracking what moves in them, or textured places, there and back with NanoTrack V3.

example: python scripts/label_videos.py ~/data/unlabelled ~/data/labelled --peers-dir ~/peers
"""

from __future__ import annotations

import argparse
import os
import sys
import zlib
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vil_tracker.cli import guarded
from vil_tracker.errors import UserError, make_folder, write_lines
from vil_tracker.evaluation.nanotrack import NanoTrackV3
from vil_tracker.training.pseudo_boxes import PseudoTrack, pseudo_tracks
from vil_tracker.videos import VIDEO_EXTENSIONS, VideoReader


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, help="folder of video files")
    parser.add_argument("output", type=Path, help="folder to train on: links to the videos and a box file per track")
    parser.add_argument("--peers-dir", type=Path, required=True, help="folder of NanoTrack V3's ONNX files")
    parser.add_argument("--attempts", type=int, default=12, help="starting frames per video (default 12)")
    parser.add_argument("--tracks", type=int, default=4, help="tracks per video at most (default 4)")
    parser.add_argument("--length", type=int, default=56, help="frames of a track at most, 16 and more (default 56)")
    parser.add_argument("--textured", action="store_true", help="start from textured places, not from what moves")
    parser.add_argument("--seed", type=int, default=0, help="another one starts elsewhere (default 0)")
    parser.add_argument(
        "--max-frames", type=int, default=600, help="frames of a video that are looked at (default 600)"
    )
    args = parser.parse_args()
    return guarded(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    if not args.videos.is_dir():
        raise UserError(f"{args.videos} is not a folder: give one of video files")
    videos = sorted(path for path in args.videos.iterdir() if path.suffix.lower() in VIDEO_EXTENSIONS)
    tracker = NanoTrackV3(args.peers_dir)
    make_folder(args.output)
    total = 0
    for video in tqdm(videos, unit="video", disable=None):
        done = args.output / f".{video.name}.done"
        if done.is_file():  # by an earlier call
            continue
        with VideoReader(video) as reader:
            frames = [frame for _, frame in zip(range(args.max_frames), reader, strict=False)]
        rng = np.random.default_rng([zlib.crc32(video.name.encode()), args.seed])
        settings = {"attempts": args.attempts, "length": args.length, "most": args.tracks, "textured": args.textured}
        tracks = list(pseudo_tracks(tracker, frames, rng, **settings))
        write_tracks(args.output, video, tracks)
        write_lines(done, [str(len(tracks))])
        total += len(tracks)
    print(f"{total} new tracks in {args.output}")
    return 0


def write_tracks(output: Path, video: Path, tracks: list[PseudoTrack]) -> None:
    """A link to the video, and ``name_1.txt`` and so on beside it, NaN outside each track."""
    if not tracks:
        return
    link = output / video.name
    if not link.exists():
        os.symlink(video.resolve(), link)
    for number, track in enumerate(tracks, start=1):
        rows = np.concatenate([np.full((track.first, 4), np.nan), track.boxes])
        write_lines(output / f"{video.stem}_{number}.txt", (",".join(f"{value:.2f}" for value in row) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
