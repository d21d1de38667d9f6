"""Measure what score, states, motion forecast and smoothed boxes cost while a target is followed.

Two sessions follow one target, one with all of it and one with none, frame by frame, each first in every other frame,
so that both meet the same load of the machine and the same caches. The ratio is the median over blocks of nine frames,
since not all frames cost the same.

example: python scripts/session_cost.py nano --data-root ~/data/uav --sequence car10 --threads 1
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from weights_script import start, weights_parser

from vil_tracker.config import TrackConfig
from vil_tracker.data.dataset import open_folder
from vil_tracker.errors import UserError
from vil_tracker.models.inference import prepare_for_inference
from vil_tracker.models.pretrained import load_model
from vil_tracker.runtime import StageTimer
from vil_tracker.tracking.tracker import Tracker

BLOCK = 9  # frames


def main() -> int:
    parser = weights_parser(__doc__)
    parser.add_argument("--data-root", type=Path, required=True, help="folder of annotated sequences")
    parser.add_argument("--sequence", required=True, help="name of one that the tracker follows without trouble")
    parser.add_argument("--frames", type=int, default=180, help="how many of its frames, from the first on")
    return start(parser, run)


def run(args: argparse.Namespace) -> int:
    sequence = open_folder(args.data_root).named(args.sequence)
    count = min(args.frames, len(sequence.frames))
    if count <= BLOCK:
        raise UserError(f"{count} frames are too few: give --frames above {BLOCK}, and a sequence that has as many")
    model = prepare_for_inference(load_model(args.weights, device=args.device))
    timer = StageTimer()
    sessions = (Tracker(model, None, timer), Tracker(model, TrackConfig(calibrated=False, smooth=False)))
    # All at once: decoding beside would slow the session that follows it.
    frames = [sequence.frames[index] for index in range(count)]
    for session in sessions:
        session.init(frames[0], sequence.boxes[0])
    seconds, outside, states = [], [], []
    for index, frame in enumerate(frames[1:]):
        known, spent = sum(timer.seconds.values()), [0.0, 0.0]
        for number in (0, 1) if index % 2 else (1, 0):
            begin = time.perf_counter()
            result = sessions[number].update(frame)
            spent[number] = time.perf_counter() - begin
            if number == 0:
                states.append(result.state)
        outside.append(spent[0] - (sum(timer.seconds.values()) - known))
        seconds.append(spent)
    whole = len(seconds) // BLOCK * BLOCK
    blocks_N2 = np.array(seconds[:whole]).reshape(-1, BLOCK, 2).sum(1)
    apart_N = np.array(outside[:whole]).reshape(-1, BLOCK).sum(1)
    on, off = 1e3 * np.median(blocks_N2, axis=0) / BLOCK
    print(f"{whole} frames of {args.sequence}, {states.count('tracking') / len(states):.0%} of them in state tracking")
    print(f"milliseconds per frame: {on:.2f} with, {off:.2f} without")
    print(f"ratio: {np.median(blocks_N2[:, 0] / blocks_N2[:, 1]):.4f}")
    print(f"outside crop and network: {np.median(apart_N / blocks_N2[:, 0]):.4f} of a frame")
    return 0


if __name__ == "__main__":
    sys.exit(main())
