"""``python scripts/demo.py`` is ``python -m vil_tracker.demo``: what ``make demo`` runs."""

import sys

from vil_tracker.demo import main

if __name__ == "__main__":
    sys.exit(main())
