"""``python scripts/train.py …`` is ``vil-tracker train …``; torchrun needs a file to start."""

import sys

from vil_tracker.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
