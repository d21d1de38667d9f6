"""What one video needs: everything that changes from frame to frame lives here, nothing of it in the network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from vil_tracker.models.film_temporal import TemporalContext
    from vil_tracker.models.vil import Memory

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


@dataclass
class TrackState:
    """Everything that one video needs, made by ``Tracker.init``.

    Attributes:
        box: (4,) xywh in pixels, the last box.
        memory: the template's memory, one mLSTM state per sublayer.
        context: temporal context of the frames before; None until a frame was confident enough to teach it.
        score: of the last frame.
        frame: frames since ``init``.
    """

    box: np.ndarray
    memory: Memory
    context: TemporalContext | None = None
    score: float = 1.0
    frame: int = 0
