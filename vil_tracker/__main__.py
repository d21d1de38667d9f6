"""``python -m vil_tracker`` is ``vil-tracker``."""

import sys

from vil_tracker.cli import main

sys.exit(main())
