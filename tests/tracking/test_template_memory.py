"""Several templates: the first is never dropped, their number is bounded, and the memory equals one built at once; a
correction by hand is such a template and restarts the session from the corrected box.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from track_clips import peak_calibration, scene, small_network

from vil_tracker.config import TrackConfig
from vil_tracker.errors import UserError
from vil_tracker.tracking.state import TemplateMemory
from vil_tracker.tracking.tracker import Tracker


def test_adding_and_replacing_equals_encoding_all_at_once() -> None:
    network = small_network()
    torch.manual_seed(0)
    crops, boxes = torch.rand(1, 6, 3, 32, 32), torch.tensor([0.25, 0.25, 0.75, 0.75]).expand(1, 6, 4)
    with torch.inference_mode():
        first = network.encode_templates(crops[:, :1], boxes[:, :1])
        memory = TemplateMemory(first, first)
        for index in range(1, 6):
            memory.add(network, crops[:, index : index + 1], boxes[:, index : index + 1], limit=3)
            kept = [0, *range(max(1, index - 1), index + 1)]
            assert len(memory) == len(kept) <= 3
            whole = network.encode_templates(crops[:, kept], boxes[:, kept])
            for ours, expected in zip(memory.current.states, whole.states, strict=True):
                for a, b in zip(ours, expected, strict=True):
                    assert torch.allclose(a, b, atol=1e-5)
    assert all(
        x is y for a, b in zip(memory.first.states, first.states, strict=True) for x, y in zip(a, b, strict=True)
    )


def corrected_tracker(limit: int = 3) -> tuple[Tracker, list[np.ndarray], np.ndarray]:
    network = small_network()
    network.calibration = peak_calibration(9.0, slope=0.0).to_json()
    tracker = Tracker(network, TrackConfig(max_templates=limit))
    frames, boxes = scene(0, 12)
    tracker.init(frames[0], boxes[0])
    return tracker, frames, boxes


def test_a_correction_is_a_further_template_and_a_new_state() -> None:
    tracker, frames, boxes = corrected_tracker()
    assert tracker.state is not None
    first, before = tracker.state.memory.first, tracker.state
    for frame in frames[1:4]:
        tracker.update(frame)
    result = tracker.correct(frames[3], boxes[3])
    state = tracker.state
    assert result.box.tolist() == boxes[3].tolist() and result.score == 1.0 and result.state == "tracking"
    assert state is not before and state.context is None and state.box.tolist() == boxes[3].tolist()
    assert len(state.memory) == 2 and state.memory.first is first
    # The same as a session whose first frame had both templates, but for what confidence compares with.
    fresh = Tracker(tracker.model, tracker.config)
    fresh.init(frames[0], boxes[0])
    fresh.correct(frames[3], boxes[3])
    for frame in frames[4:8]:
        ours, expected = tracker.update(frame), fresh.update(frame)
        assert ours.box.tolist() == expected.box.tolist() and ours.score == expected.score


def test_corrections_are_bounded_and_the_first_template_stays() -> None:
    tracker, frames, boxes = corrected_tracker(limit=3)
    assert tracker.state is not None
    first = tracker.state.memory.first
    for index in range(1, 6):
        tracker.correct(frames[index], boxes[index])
        assert len(tracker.state.memory) == min(index + 1, 3) and tracker.state.memory.first is first


def test_a_correction_needs_a_target_and_a_box_in_the_frame() -> None:
    tracker, frames, boxes = corrected_tracker()
    with pytest.raises(UserError, match="outside"):
        tracker.correct(frames[1], (5000, 5000, 20, 20))
    with pytest.raises(UserError, match="no target yet"):
        Tracker(tracker.model).correct(frames[1], boxes[1])
