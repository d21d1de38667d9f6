"""What a tracker says about a frame, and its form for ``supervision`` (extra ``supervision``)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from vil_tracker.boxes import convert
from vil_tracker.errors import require_extra

if TYPE_CHECKING:
    import supervision

STATES = ("tracking", "uncertain", "lost", "recovered")


@dataclass(frozen=True)
class Result:
    """What the tracker says about one frame.

    Attributes:
        box: (4,) float64 xywh in the frame's pixels, finite, inside the frame.
        score: how sure the tracker is that the box is on the target, in [0, 1]: the probability that it overlaps the
            target by more than half where the weights hold a calibration, else the peak of the score map.
        state: one of :data:`STATES`.
    """

    box: np.ndarray
    score: float
    state: str = "tracking"

    def to_detections(self, tracker_id: int = 1) -> supervision.Detections:
        """As ``supervision.Detections``; empty while the target is lost (extra ``supervision``)."""
        return to_detections({tracker_id: self})


class TrackerLike(Protocol):
    """Anything that follows one target through one video of (H, W, 3) uint8 RGB frames."""

    def init(self, frame: np.ndarray, box: Any) -> Any:
        """Start on the first frame with its box, x, y, w, h in pixels; forgets any video before."""

    def update(self, frame: np.ndarray) -> Result:
        """Find the target in the next frame; a score of NaN means that the tracker has none."""


def to_detections(results: Mapping[int, Result]) -> supervision.Detections:
    """The results of one frame, by target id, as ``supervision.Detections``.

    One detection per target that is not lost: xyxy in pixels, the score as confidence, class 0, the id as tracker id,
    and the state in ``data["state"]``. UserError where supervision is not installed.
    """
    module = require_extra("supervision", "supervision", "convert results to supervision's Detections")
    shown = {number: result for number, result in results.items() if result.state != "lost"}
    if not shown:
        return module.Detections.empty()
    return module.Detections(
        xyxy=convert(np.stack([result.box for result in shown.values()]), "xywh", "xyxy"),
        confidence=np.array([result.score for result in shown.values()]),
        class_id=np.zeros(len(shown), int),
        tracker_id=np.array(list(shown)),
        data={"state": np.array([result.state for result in shown.values()])},
    )
