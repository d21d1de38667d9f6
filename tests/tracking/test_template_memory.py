"""Dynamic templates: the first is never dropped, their number is bounded, and the memory equals one built at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from track_clips import peak_calibration, scene, small_network

from vil_tracker.config import TrackConfig
from vil_tracker.tracking.memory import TemplateMemory
from vil_tracker.tracking.tracker import Tracker


def test_adding_and_replacing_equals_encoding_all_at_once() -> None:
    network = small_network()
    torch.manual_seed(0)
    crops, boxes = torch.rand(1, 6, 3, 32, 32), torch.tensor([0.25, 0.25, 0.75, 0.75]).expand(1, 6, 4)
    looks = np.eye(6)
    with torch.inference_mode():
        first = network.encode_templates(crops[:, :1], boxes[:, :1])
        memory = TemplateMemory(first, first, [looks[0]])
        for index in range(1, 6):
            memory.add(network, crops[0, index], boxes[0, index], looks[index], limit=3)
            kept = [0, *range(max(1, index - 1), index + 1)]
            assert len(memory) == len(kept) <= 3
            whole = network.encode_templates(crops[:, kept], boxes[:, kept])
            for ours, expected in zip(memory.current, whole, strict=True):
                for a, b in zip(ours, expected, strict=True):
                    assert torch.allclose(a, b, atol=1e-5)
            assert memory.likeness(looks[0]) == 1 and memory.likeness(looks[index]) == 1
            assert memory.likeness(looks[1]) == (1 if index <= 2 else 0)
    assert all(x is y for a, b in zip(memory.first, first, strict=True) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize(
    ("bias", "changes", "grows"),
    [
        (9.0, {}, True),
        (9.0, {"templates": False}, False),
        (9.0, {"template_likeness": 0.0}, False),
        (9.0, {"template_interval": 50}, False),
        (-9.0, {}, False),
    ],
    ids=["confident and different", "switched off", "too much alike", "too soon", "unsure"],
)
def test_when_a_template_is_added(bias: float, changes: dict[str, object], grows: bool) -> None:
    network = small_network()
    network.calibration = peak_calibration(bias, slope=0.0).to_json()
    settings = {"templates": True, "template_interval": 2, "template_likeness": 1.0, "max_templates": 3, **changes}
    tracker = Tracker(network, TrackConfig(**settings))  # type: ignore[arg-type]
    frames, boxes = scene(0, 12)
    tracker.init(frames[0], boxes[0])
    assert tracker.state is not None
    first = tracker.state.memory.first
    for frame in frames[1:]:
        tracker.update(frame)
        assert len(tracker.state.memory) <= 3
    assert (len(tracker.state.memory) == 3) is grows and tracker.state.memory.first is first
