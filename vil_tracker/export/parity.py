"""Whether an exported tracker finds the same boxes as the network that it came from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vil_tracker.boxes import BoxLike, iou
from vil_tracker.models.inference import SearchModel
from vil_tracker.models.network import ViLTrackerNet
from vil_tracker.tracking.tracker import Tracker

REQUIRED = 0.999


@dataclass(frozen=True)
class Parity:
    """Overlap of two trackers' boxes over a sequence: intersection over union, mean and least."""

    frames: int
    mean: float
    least: float

    @property
    def holds(self) -> bool:
        """Whether every frame reaches :data:`REQUIRED`."""
        return self.least >= REQUIRED


def compare(network: ViLTrackerNet, exported: SearchModel, frames: Sequence[np.ndarray], box: BoxLike) -> Parity:
    """Track the same RGB frames with both, each following its own boxes.

    Args:
        network, exported: the two models.
        frames: at least two.
        box: x, y, w, h of the target on the first one.
    """
    trackers = [Tracker(network), Tracker(exported)]
    for tracker in trackers:
        tracker.init(frames[0], box)
    pairs = [[tracker.update(frame).box for tracker in trackers] for frame in frames[1:]]
    overlap = iou(*np.array(pairs).transpose(1, 0, 2))
    return Parity(len(pairs), float(overlap.mean()), float(overlap.min()))
