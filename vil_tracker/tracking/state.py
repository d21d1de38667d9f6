"""What one video needs: everything that changes from frame to frame lives here, nothing of it in the network."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

STATES = ("tracking", "uncertain", "lost", "recovered")


@dataclass(frozen=True)
class Result:
    """What the tracker says about one frame.

    Attributes:
        box: (4,) float64 xywh in the frame's pixels, finite, inside the frame.
        score: how sure the tracker is that the box is on the target, in [0, 1].
        state: one of :data:`STATES`.
    """

    box: np.ndarray
    score: float
    state: str = "tracking"
