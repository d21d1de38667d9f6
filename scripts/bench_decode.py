"""Compare the speed of reading a video with OpenCV's: both decode all of it to RGB, in turns, in one process.

example: python scripts/bench_decode.py clip.mp4
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path

import cv2

from vil_tracker.cli import guarded
from vil_tracker.videos import VideoReader


def with_opencv(path: Path) -> int:
    capture, count = cv2.VideoCapture(str(path)), 0
    while (item := capture.read())[0]:
        cv2.cvtColor(item[1], cv2.COLOR_BGR2RGB)
        count += 1
    return count


def with_ours(path: Path) -> int:
    with VideoReader(path) as reader:
        return sum(1 for _ in reader)


def timed(read, path: Path) -> tuple[float, float, int]:
    """Seconds on the clock, seconds of processor time, frames."""
    clock, cpu = time.perf_counter(), time.process_time()
    count = read(path)
    return time.perf_counter() - clock, time.process_time() - cpu, count


def run(args: argparse.Namespace) -> int:
    for path in args.videos:
        rounds = [(timed(with_opencv, path), timed(with_ours, path)) for _ in range(args.rounds)]
        clock = statistics.median(theirs[0] / ours[0] for theirs, ours in rounds)
        cpu = statistics.median(theirs[1] / ours[1] for theirs, ours in rounds)
        rate = statistics.median(ours[2] / ours[0] for _, ours in rounds)
        print(
            f"{path.name}: {rate:.0f} frames/s, {clock:.2f} times OpenCV's speed, {cpu:.2f} times per processor second"
        )
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=7, help="how often each is read (default 7)")
    args = parser.parse_args()
    return guarded(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
