"""Checksums of every box, score and state of a track, to show that a change of the code leaves tracks as they were.

    python scripts/track_digest.py --weights nano                                   # the painted demo clip
    python scripts/track_digest.py --weights nano --data-root DIR --sequences car10 cows

One line per sequence: its name, its frames and the SHA-256 of the float64 values. Run it before and after a
change on one machine and compare the lines; different processors round differently. Computes on one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from vil_tracker import Tracker, load_model
from vil_tracker.cli import guarded
from vil_tracker.data.dataset import open_folder
from vil_tracker.data.sequence import Sequence
from vil_tracker.data.synthetic.demo_clip import demo_sequence


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="nano", help="shipped weights by name, or a file (default: nano)")
    parser.add_argument("--data-root", type=Path, help="folder of sequences")
    parser.add_argument("--sequences", nargs="+", default=[], metavar="NAME", help="sequences of that folder")
    parser.add_argument("--frames", type=int, default=150, help="frames of each at the most (default: 150)")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model = load_model(args.weights, "cpu")
    for sequence in chosen(args.data_root, args.sequences):
        digest, count = hashlib.sha256(), min(len(sequence), args.frames)
        tracker = Tracker(model)
        for index in range(count):
            frame = sequence.frames[index]
            result = tracker.update(frame) if index else tracker.init(frame, sequence.boxes[0])
            digest.update(np.array([*result.box, result.score], np.float64).tobytes() + result.state.encode())
        print(f"{sequence.name}  {count} frames  {digest.hexdigest()}", flush=True)
    return 0


def chosen(root: Path | None, names: list[str]) -> Iterator[Sequence]:
    yield demo_sequence()
    if root is not None:
        sequences = open_folder(root)
        yield from (sequences.named(name) for name in names)


if __name__ == "__main__":
    sys.exit(guarded(main))
