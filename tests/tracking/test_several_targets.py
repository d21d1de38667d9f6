"""Several targets in one video: one batch, the same results as separate runs."""

from __future__ import annotations

import numpy as np
import pytest
from track_clips import peak_calibration, scene, small_network

from vil_tracker.config import TrackConfig
from vil_tracker.errors import UserError
from vil_tracker.io.source import Frame
from vil_tracker.runtime import StageTimer
from vil_tracker.tracking import tracker as tracker_module
from vil_tracker.tracking.run import TargetGroup
from vil_tracker.tracking.select import Target
from vil_tracker.tracking.tracker import Tracker, update_together

BOXES = [(10, 12, 30, 20), (60, 40, 16, 30), (80, 5, 25, 25)]


@pytest.mark.parametrize("correlation", [False, True], ids=["", "correlation"])
@pytest.mark.parametrize("bias", [None, 4.0, -1.0, -9.0], ids=["plain", "sure", "wavering", "lost"])
def test_together_equals_apart(bias: float | None, correlation: bool) -> None:
    network = small_network(calibrated=False, correlation=correlation)
    if bias is not None:
        network.calibration = peak_calibration(bias, 1.0 if bias > -5 else 0.0).to_json()
    frames, _ = scene(0, 9)
    config = TrackConfig(lost_after=2, context_confidence=0.4)
    together = [Tracker(network, config) for _ in BOXES]
    apart = [Tracker(network, config) for _ in BOXES]
    for a, b, box in zip(together, apart, BOXES, strict=True):
        a.init(frames[0], box)
        b.init(frames[0], box)
    for frame in frames[1:]:
        for a, b in zip(update_together(together, frame), [t.update(frame) for t in apart], strict=True):
            assert np.allclose(a.box / 120, b.box / 120, atol=1e-5) and abs(a.score - b.score) <= 1e-5
            assert a.state == b.state


def test_one_pass_per_frame_whatever_the_number_of_targets(monkeypatch) -> None:
    network, (frames, _) = small_network(calibrated=False), scene(1, 5)
    sizes: list[int] = []
    trackers = [Tracker(network) for _ in BOXES]
    model = trackers[0].model
    forward = model.forward_search
    monkeypatch.setattr(model, "forward_search", lambda s, m, c: sizes.append(len(s)) or forward(s, m, c))
    for tracker, box in zip(trackers, BOXES, strict=True):
        tracker.init(frames[0], box)
    for frame in frames[1:]:
        update_together(trackers, frame)
    assert sizes == [3] * 4


def test_targets_that_join_late_and_a_correction() -> None:
    """Through the group of the track command; contexts of different age share a batch."""
    network, (frames, _) = small_network(calibrated=False), scene(2, 8)
    config = TrackConfig(context_confidence=0.0)
    targets = [Target(1, np.array(BOXES[0], float)), Target(2, np.array(BOXES[1], float), frame=3)]
    timer = StageTimer()
    together = TargetGroup(lambda: Tracker(network, config), targets, Frame(0, 0.0, frames[0]), timer)
    first, second = Tracker(network, config), Tracker(network, config)
    for number, frame in enumerate(frames):
        results = together.step(Frame(number, 0.0, frame))
        expected = {1: first.update(frame) if number else first.init(frame, BOXES[0])}
        if number >= 3:
            expected[2] = second.init(frame, BOXES[1]) if number == 3 else second.update(frame)
        assert results.keys() == expected.keys()
        for key, result in expected.items():
            assert np.allclose(results[key].box, result.box, atol=1e-3)
        if number == 5:
            together.correct(1, Frame(number, 0.0, frame), np.array(BOXES[2], float))
            first.correct(frame, BOXES[2])
    assert {"crop", "network"} <= set(timer.seconds)


def test_trackers_must_fit_together() -> None:
    (frames, _), a, b = scene(3, 2), small_network(), small_network(1)
    one, other, third = Tracker(a), Tracker(b), Tracker(a, TrackConfig(window=0.1))
    for tracker in (one, other, third):
        tracker.init(frames[0], BOXES[0])
    for pair in ([one, other], [one, third]):
        with pytest.raises(ValueError, match="do not share one"):
            update_together(pair, frames[1])
    with pytest.raises(UserError, match="call init"):
        update_together([one, Tracker(a)], frames[1])
    with pytest.raises(UserError, match="frame"):
        tracker_module.update_together([one], frames[1][..., 0])


def test_corrections_of_a_run_are_those_of_the_session() -> None:
    network, (frames, _) = small_network(calibrated=False), scene(4, 7)
    targets = [Target(number, np.array(box, float)) for number, box in enumerate(BOXES[:2], start=1)]
    corrections = [Target(1, np.array(BOXES[1], float), 5), Target(1, np.array(BOXES[2], float), 2)]
    first = Frame(0, 0.0, frames[0])
    group = TargetGroup(lambda: Tracker(network), targets, first, StageTimer(), corrections)
    alone = Tracker(network)
    for number, frame in enumerate(frames):
        result = alone.update(frame) if number else alone.init(frame, BOXES[0])
        if number in (2, 5):
            result = alone.correct(frame, BOXES[2 if number == 2 else 1])
        assert np.allclose(group.step(Frame(number, 0.0, frame))[1].box, result.box, atol=1e-3)
    assert not group.missing()
    for wrong, text in ((Target(3, targets[0].box, 4), "target 3"), (Target(1, targets[0].box, 0), "later frame")):
        with pytest.raises(UserError, match=text):
            TargetGroup(lambda: Tracker(network), targets, first, StageTimer(), [wrong])
