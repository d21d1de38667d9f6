"""Paint a small data set to try training on: python scripts/paint_data.py FOLDER."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from vil_tracker.cli import guarded
from vil_tracker.data.synthetic.painted import paint_data


def main() -> int:
    parser = argparse.ArgumentParser(description="Paint a small data set: photos to train on, videos to evaluate on.")
    parser.add_argument("folder", type=Path, help="where to write it")
    parser.add_argument("--seed", type=int, default=0, help="another seed paints another one (default: 0)")
    args = parser.parse_args()
    paint_data(args.folder, seed=args.seed)
    print(f"painted: {args.folder}/stills and {args.folder}/videos")
    return 0


if __name__ == "__main__":
    sys.exit(guarded(main))
