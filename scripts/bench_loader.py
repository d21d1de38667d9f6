"""How many training samples a core makes per second, and where the time goes.

    python scripts/bench_loader.py [--samples 400] [--frame 480x360] [--json FILE]

Pairs of crops (128 and 256 pixels by default) are cut from JPEG frames, decoding included, in this process on one
thread. Decoding alone is measured beside it on the same files, so that the ratio says what is left for the rest.
"""

from __future__ import annotations

import argparse
import cProfile
import pstats
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import torch

from vil_tracker.cli import guarded
from vil_tracker.config import MODEL_SIZES, DataConfig
from vil_tracker.data.clips import ClipCutter, VideoClips
from vil_tracker.data.dataset import SequenceDataset, open_folder
from vil_tracker.data.pairs import PairCutter, VideoPairs
from vil_tracker.data.sampling import Source
from vil_tracker.data.synthetic.painted import painted_photo
from vil_tracker.errors import UserError, write_json
from vil_tracker.images import read_image, write_image

SEQUENCES, FRAMES = 4, 30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=400, help="samples to measure (default: 400)")
    parser.add_argument("--frame", default="480x360", metavar="WxH", help="size of the frames (default: 480x360)")
    parser.add_argument("--template", type=int, default=128, help="template crop in pixels (default: 128)")
    parser.add_argument("--search", type=int, default=256, help="search crop in pixels (default: 256)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to this file as well")
    args = parser.parse_args()
    try:
        width, height = (int(value) for value in args.frame.split("x"))
    except ValueError as error:
        raise UserError(f"--frame {args.frame!r} is not of the form 480x360") from error
    torch.set_num_threads(1)
    cv2.setNumThreads(0)
    model = replace(MODEL_SIZES["small"], template_size=args.template, search_size=args.search)
    with tempfile.TemporaryDirectory() as folder:
        dataset = write_videos(Path(folder), width, height)
        pairs = VideoPairs(dataset, PairCutter(model, DataConfig()))
        clips = VideoClips(dataset, ClipCutter(model, DataConfig(mode="clips"), 0.5))
        files = sorted(Path(folder).rglob("*.jpg"))
        decode = seconds_per(lambda i: read_image(files[i % len(files)]), args.samples)
        pair = seconds_per(lambda i: pairs.sample(np.random.default_rng((0, 0, i)), 1.0), args.samples)
        clip = seconds_per(lambda i: clips.sample(np.random.default_rng((0, 0, i)), 1.0), max(args.samples // 4, 1))
        figures = {
            "frame": f"{width}x{height}",
            "crops": [args.template, args.search],
            "decode_ms_per_frame": 1e3 * decode,
            "pairs_per_second_per_core": 1 / pair,
            "share_of_a_pair_that_is_decoding": 2 * decode / pair,
            "clips_of_4_frames_per_second_per_core": 1 / clip,
        }
        for name, value in figures.items():
            print(f"{name:40} {value:.3g}" if isinstance(value, float) else f"{name:40} {value}")
        print("\nWhere the time of the pairs goes:")
        profile(pairs, min(args.samples, 200))
    if args.json:
        write_json(args.json, figures)
    return 0


def write_videos(folder: Path, width: int, height: int) -> SequenceDataset:
    """A few videos of painted frames, JPEG of quality 90, in which a target of a sixth of the frame moves."""
    side = min(width, height) / 6
    for s in range(SEQUENCES):
        photo = painted_photo(np.random.default_rng(s), width, height)
        lines = []
        for k in range(FRAMES):
            write_image(folder / f"video{s}" / "img" / f"{k + 1:05d}.jpg", np.roll(photo, 3 * k, axis=1))
            x = side + (width - 3 * side) * k / FRAMES
            lines.append(f"{x:.1f},{height / 3:.1f},{side:.1f},{1.3 * side:.1f}\n")
        (folder / f"video{s}" / "groundtruth_rect.txt").write_text("".join(lines))
    return open_folder(folder, cache_dir=folder / "index")


def seconds_per(make: object, count: int) -> float:
    """CPU seconds per call, after a few calls to warm up: what other processes do to this one does not count."""
    for i in range(5):
        make(i)  # type: ignore[operator]
    begun = time.process_time()
    for i in range(count):
        make(i)  # type: ignore[operator]
    return (time.process_time() - begun) / count


def profile(source: Source, count: int) -> None:
    """Print the functions that take the most time."""
    profiler = cProfile.Profile(time.process_time)
    profiler.enable()
    for i in range(count):
        source.sample(np.random.default_rng((1, 0, i)), 1.0)
    profiler.disable()
    pstats.Stats(profiler).strip_dirs().sort_stats("tottime").print_stats(12)


if __name__ == "__main__":
    sys.exit(guarded(main))
