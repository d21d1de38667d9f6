"""Memory along a long video; outside the ordinary suite (make soak)."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from vil_tracker.benchmarking.machine import resident_memory
from vil_tracker.config import MODEL_SIZES
from vil_tracker.data.synthetic.demo_clip import DemoClip
from vil_tracker.models.network import build_network
from vil_tracker.tracking.tracker import Tracker


@pytest.mark.soak
def test_ten_thousand_frames_take_no_more_memory_than_a_thousand() -> None:
    torch.manual_seed(0)
    tracker = Tracker(build_network(dataclasses.replace(MODEL_SIZES["nano"], search_size=128, template_size=64)).eval())
    clip = DemoClip(frames=30)
    frames: list[np.ndarray] = list(clip)
    tracker.init(frames[0], clip.boxes[0])
    seen = []
    for index in range(1, 10_001):
        tracker.update(frames[index % len(frames)])
        if index % 1000 == 0:
            seen.append(resident_memory())
    assert max(seen) - seen[0] < 20, f"resident MiB by thousands of frames: {[round(value) for value in seen]}"
