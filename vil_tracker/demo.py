"""``python -m vil_tracker.demo``: track a car through a clip that is painted on the spot, with the shipped weights."""

from __future__ import annotations

import argparse
import csv
import os
import sys
from pathlib import Path

import numpy as np

from vil_tracker import cli
from vil_tracker.boxes import iou
from vil_tracker.config import DEFAULT_WEIGHTS
from vil_tracker.data.synthetic.demo_clip import FPS, DemoClip
from vil_tracker.errors import make_folder
from vil_tracker.io.video_writer import write_video


def main(argv: list[str] | None = None) -> int:
    """Paint the clip, track it, and say where the results are; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m vil_tracker.demo", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("demo_output"), help="folder (default: demo_output)")
    parser.add_argument("--seed", type=int, default=0, help="another seed paints another clip (default: 0)")
    parser.add_argument(
        "--weights", default=DEFAULT_WEIGHTS, help=f"shipped weights by name, or a file (default: {DEFAULT_WEIGHTS})"
    )
    args = parser.parse_args(argv)
    return cli.guarded(lambda: run(args.output, args.seed, args.weights))


def run(folder: Path, seed: int = 0, weights: str = DEFAULT_WEIGHTS) -> int:
    """Run the demo into ``folder``; returns the exit status of the tracking. UserError where it cannot be written."""
    clip = DemoClip(seed)
    video = write_video(clip, make_folder(folder), f".clip-{os.getpid()}", FPS)
    video = video.replace(folder / f"clip{video.suffix}")
    box = ",".join(f"{value:.1f}" for value in clip.boxes[0])
    words = ["track", str(video), "--box", box, "--output", str(folder), "--overwrite", "--contact-sheet"]
    words += ["--weights", weights]
    print(f"A clip of {len(clip)} frames was painted: {video}\nNow:  vil-tracker {' '.join(words)}\n", flush=True)
    status = cli.main(words)
    if status == 0:
        overlap = _mean_overlap(folder / "boxes.csv", clip.boxes)
        print(f"\nMean overlap with the true box: {overlap:.2f} (1 is perfect, 0.5 is a hit in most benchmarks)")
        print("Your own video:  vil-tracker track VIDEO --select")
    return status


def _mean_overlap(path: Path, truth: np.ndarray) -> float:
    """Mean IoU over the frames after the first, whose box was given."""
    with open(path, newline="", encoding="utf-8") as stream:
        rows = [[float(row[key]) for key in ("x", "y", "w", "h")] for row in csv.DictReader(stream)]
    return float(iou(np.array(rows)[1:], truth[1 : len(rows)]).mean())


if __name__ == "__main__":
    sys.exit(main())
