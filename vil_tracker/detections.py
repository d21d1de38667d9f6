"""Results as ``supervision.Detections``, for its annotators, zones and counters (extra ``supervision``)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from vil_tracker.boxes import convert
from vil_tracker.errors import require_extra

if TYPE_CHECKING:
    import supervision

    from vil_tracker.tracking.state import Result


def to_detections(results: Mapping[int, Result]) -> supervision.Detections:
    """Convert the results of one frame.

    Args:
        results: by target id.

    Returns:
        One detection per target that is not lost: xyxy in pixels, the score as confidence, class 0, the id as tracker
        id, and the state in ``data["state"]``.

    Raises:
        UserError: supervision is not installed.
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
