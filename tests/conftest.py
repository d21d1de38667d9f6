"""Fixtures shared by all tests."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

# As the command line does: FFmpeg's own lines are set once per process, by the first video that is opened.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")

# The tests' tensors are tiny: a second thread gains nothing, and on a busy machine each waits for the other.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def ordinary_logging() -> Iterator[None]:
    """Undo what the command line sets up for its process, so that each test sees the package's messages once."""
    package = logging.getLogger("vil_tracker")
    handlers, level, propagate = package.handlers[:], package.level, package.propagate
    yield
    package.handlers[:], package.propagate = handlers, propagate
    package.setLevel(level)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of research data that is not part of the project: VIL_SHARED, or ``shared`` beside the checkout."""
    folder = Path(os.environ.get("VIL_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    if not (folder / "data").is_dir():
        pytest.skip("needs the research data: set VIL_SHARED to its folder")
    return folder
