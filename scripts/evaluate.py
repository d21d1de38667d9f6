"""``python scripts/evaluate.py …`` is ``vil-tracker evaluate …``; torchrun needs a file to start."""

import sys

from vil_tracker.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
