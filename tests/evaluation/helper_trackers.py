"""Trackers for the runner's tests, importable by worker processes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np

from vil_tracker.results import Result


class Drift:
    """Moves its box right by one pixel a frame and says how sure it is: less and less."""

    def init(self, frame: np.ndarray, box: np.ndarray) -> None:
        self.box, self.age = np.array(box, dtype=float), 0

    def update(self, frame: np.ndarray) -> Result:
        self.age += 1
        self.box = self.box + np.array([1.0, 0.0, 0.0, 0.0])
        state = "tracking" if self.age < 8 else "lost"
        return Result(box=self.box.copy(), score=1.0 / (1 + 0.1 * self.age), state=state)


class Slow(Drift):
    """The same, slowly enough to be killed on the way."""

    def update(self, frame: np.ndarray) -> Result:
        time.sleep(float(os.environ.get("SLOW_SECONDS", "0")))
        return super().update(frame)


class Fails(Drift):
    """Breaks down on long videos while the file named by FAIL_UNLESS does not exist."""

    def update(self, frame: np.ndarray) -> Result:
        if self.age >= 9 and not Path(os.environ.get("FAIL_UNLESS", "/nonexistent")).exists():
            raise RuntimeError("the tracker broke down")
        return super().update(frame)


class Threads(Drift):
    """Moves its box right by as many pixels a frame as there are CPU threads."""

    def update(self, frame: np.ndarray) -> Result:
        import torch

        self.box = self.box + np.array([torch.get_num_threads(), 0.0, 0.0, 0.0])
        return Result(box=self.box.copy(), score=0.5, state="tracking")
