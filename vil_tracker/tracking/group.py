"""Several targets in one video: the search crops of all of them are one batch through one network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from vil_tracker.errors import UserError
from vil_tracker.tracking.looking import Request, View, look
from vil_tracker.tracking.state import Result

if TYPE_CHECKING:
    from vil_tracker.tracking.tracker import Tracker


def check_frame(frame: np.ndarray) -> None:
    """Raise UserError unless ``frame`` is (H, W, 3) uint8 with at least one pixel."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        found = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise UserError(f"a frame must be a numpy array (H, W, 3) of uint8 RGB, found {found}")
    if frame.size == 0:
        raise UserError(f"the frame has no pixels (shape {frame.shape}): check the source")


@torch.inference_mode()
def update_together(trackers: Sequence[Tracker], frame: np.ndarray) -> list[Result]:
    """Update trackers of one video, which share a network and its window, with the next frame.

    Every tracker does exactly what its own ``update`` does; only their crops go through the network together.

    Args:
        trackers: at least one, all started.
        frame: (H, W, 3) uint8 RGB.

    Returns:
        One result per tracker.

    Raises:
        UserError: the frame is no RGB image, or a tracker has no target.
        ValueError: the trackers have different networks or settings.
    """
    check_frame(frame)
    lead = trackers[0]
    if any(tracker.model is not lead.model or tracker.config != lead.config for tracker in trackers):
        raise ValueError("trackers that are updated together must share one network and one configuration")
    if any(tracker.state is None for tracker in trackers):
        raise UserError("the tracker has no target yet: call init(frame, box) first")
    runs = [tracker.steps(frame) for tracker in trackers]
    views: dict[int, list[View] | None] = dict.fromkeys(range(len(runs)))
    results: dict[int, Result] = {}
    while True:
        asked: dict[int, list[Request]] = {}
        for index, seen in views.items():
            try:
                asked[index] = next(runs[index]) if seen is None else runs[index].send(seen)
            except StopIteration as done:
                results[index] = done.value
        if not asked:
            return [results[index] for index in range(len(runs))]
        requests = [request for part in asked.values() for request in part]
        answers = iter(look(lead.model, frame, requests, lead.window, lead.timer))
        views = {index: [next(answers) for _ in part] for index, part in asked.items()}
