"""Tracking under abuse: whatever the frames are, a finite, non-empty box inside the frame and a score in [0, 1]."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from track_clips import peak_calibration, small_network

from vil_tracker.config import TrackConfig
from vil_tracker.results import STATES
from vil_tracker.tracking.confidence_model import CONFIDENCE_FEATURES
from vil_tracker.tracking.tracker import Tracker


def abusive_frame(rng: np.random.Generator, last: np.ndarray) -> np.ndarray:
    """Black, white, noise, flat, 1 × 1, one row, frozen, another size, or the last one shifted."""
    kind = int(rng.integers(9))
    height, width = last.shape[:2]
    if kind == 0:
        return np.zeros_like(last)
    if kind == 1:
        return np.full_like(last, 255)
    if kind == 2:
        return rng.integers(0, 256, last.shape, dtype=np.uint8)
    if kind == 3:
        return np.full((1, 1, 3), rng.integers(0, 256), np.uint8)
    if kind == 4:
        return rng.integers(0, 256, (1, int(rng.integers(1, 300)), 3), dtype=np.uint8)
    if kind == 5:
        return last
    if kind == 6:
        size = rng.integers(1, 200, 2)
        return rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    if kind == 7:
        return np.ascontiguousarray(last[: max(1, height // 2), ::-1][:, : max(1, width // 2)])
    return np.roll(last, rng.integers(-40, 40, 2), axis=(0, 1))


def abuse(network, number: int, length: int) -> None:
    rng = np.random.default_rng((77, number))
    bias, slope = float(rng.normal(0, 3)), float(rng.normal(1, 1))
    network.calibration = None if rng.random() < 0.2 else peak_calibration(bias, slope).to_json()
    config = TrackConfig(
        max_templates=int(rng.integers(2, 4)),
        context_confidence=float(rng.uniform()),
        motion=bool(rng.random() < 0.7),
        gate=float(rng.uniform()),
        compare_interval=int(rng.integers(1, 4)),
        sure_above=float(rng.uniform()),
        max_crops=int(rng.integers(2, 6)),
        redetect_below=float(rng.uniform()),
        redetect_after=int(rng.integers(1, 4)),
    )
    tracker = Tracker(network, config)
    frame = rng.integers(0, 256, (*rng.integers(2, 120, 2), 3), dtype=np.uint8)
    height, width = frame.shape[:2]
    box = np.array([rng.uniform(-5, width - 1), rng.uniform(-5, height - 1), *np.exp(rng.uniform(-1, 5, 2))])
    box[2:] = np.maximum(box[2:], -box[:2] + 0.5)  # some of it lies in the frame
    tracker.init(frame, box)
    for _ in range(length):
        frame = abusive_frame(rng, frame)
        result = tracker.update(frame)
        x, y, w, h = result.box
        assert np.isfinite(result.box).all() and w > 0 and h > 0
        assert x >= 0 and y >= 0 and x + w <= frame.shape[1] + 1e-9 and y + h <= frame.shape[0] + 1e-9
        assert 0 <= result.score <= 1 and result.state in STATES
        assert tracker.state is not None
        for _, features in tracker.state.confidence.judged if tracker.state.confidence else ():
            assert features.shape == (len(CONFIDENCE_FEATURES),) and np.isfinite(features).all()
        if tracker.state.context is not None:
            assert torch.isfinite(tracker.state.context.features).all()


def test_a_hundred_random_sequences() -> None:
    network = small_network()
    for number in range(100):
        abuse(network, number, 5)


@pytest.mark.soak
def test_a_thousand_random_sequences() -> None:
    network = small_network()
    for number in range(1000, 2000):
        abuse(network, number, 30)


@pytest.mark.soak
def test_memory_does_not_grow_with_the_video_or_with_restarts() -> None:
    """10,000 frames, then 1,000 sessions: at most 20 MB of resident memory more than after a warm-up, no more files."""
    import os
    from pathlib import Path

    if not Path("/proc/self/statm").exists():
        pytest.skip("reads /proc")

    def used() -> tuple[float, int]:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20, len(os.listdir("/proc/self/fd"))

    network = small_network()
    config = TrackConfig()
    tracker, rng = Tracker(network, config), np.random.default_rng(0)
    frames = rng.integers(0, 256, (50, 90, 120, 3), dtype=np.uint8)
    tracker.init(frames[0], (40, 30, 24, 18))
    memory, files = 0.0, 0
    for index in range(11_000):
        if index == 1000:
            memory, files = used()
        tracker.update(frames[index % 50])
    for index in range(1000):
        tracker = Tracker(network, config)
        tracker.init(frames[index % 50], (40, 30, 24, 18))
        tracker.update(frames[(index + 1) % 50])
    assert used()[0] - memory <= 20 and used()[1] <= files
