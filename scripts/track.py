"""``python scripts/track.py SOURCE --box x,y,w,h`` is ``vil-tracker track SOURCE --box x,y,w,h``."""

import sys

from vil_tracker.cli import main

if __name__ == "__main__":
    sys.exit(main(["track", *sys.argv[1:]]))
