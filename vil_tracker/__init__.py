"""ViL-Tracker: give it a video and one box, and it follows that target to the end and says how sure it is.

The public names are imported when first used, so that ``import vil_tracker`` (and ``vil-tracker --help``) is instant.
Imported before torch, the package lets OpenMP's threads wait only briefly for one another
(:func:`vil_tracker.runtime.prepare_environment`).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from vil_tracker.runtime import prepare_environment

__version__ = "0.2.0"

if TYPE_CHECKING:
    from vil_tracker.api import track
    from vil_tracker.models.pretrained import load_model
    from vil_tracker.results import Result
    from vil_tracker.tracking.tracker import Tracker

_LAZY = {
    "Tracker": "vil_tracker.tracking.tracker",
    "Result": "vil_tracker.results",
    "load_model": "vil_tracker.models.pretrained",
    "track": "vil_tracker.api",
}

__all__ = ["Result", "Tracker", "__version__", "load_model", "track"]


prepare_environment()


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
