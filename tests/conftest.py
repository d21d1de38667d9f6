"""Fixtures shared by all tests."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
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


def research_data() -> Path | None:
    """Folder of research data that is not part of the project: VIL_SHARED, or ``shared`` beside the checkout."""
    folder = Path(os.environ.get("VIL_SHARED") or Path(__file__).resolve().parents[2] / "shared")
    return folder if (folder / "data").is_dir() else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """Folder of research data; tests that need it are skipped where there is none."""
    folder = research_data()
    if folder is None:
        pytest.skip("needs the research data: set VIL_SHARED to its folder")
    return folder


@pytest.fixture(scope="session")
def footage() -> tuple[list[np.ndarray], np.ndarray]:
    """101 frames of a real video where the research data is at hand, of the painted clip where not; the target's box
    on the first one.
    """
    from vil_tracker.data.dataset import open_folder
    from vil_tracker.data.synthetic.demo_clip import DemoClip

    folder = research_data()
    if folder is not None and (folder / "data" / "dev" / "davis20" / "cows").is_dir():
        sequence = open_folder(folder / "data" / "dev" / "davis20").named("cows")
        return [sequence.frames[index] for index in range(101)], sequence.boxes[0]
    clip = DemoClip(frames=101)
    return list(clip), clip.boxes[0]
