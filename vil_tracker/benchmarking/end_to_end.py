"""Whole videos: decoding, crop, network, drawing and writing of a 1280×720 clip; other trackers on the same frames."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from vil_tracker.data.synthetic.demo_clip import FPS, DemoClip
from vil_tracker.errors import UserError
from vil_tracker.evaluation.baselines import KNOWN, OpenCvTracker
from vil_tracker.evaluation.nanotrack import NanoTrackV3
from vil_tracker.io.files import open_source
from vil_tracker.io.video_writer import write_video
from vil_tracker.models.inference import InferenceNetwork
from vil_tracker.results import TrackerLike
from vil_tracker.runtime import StageTimer
from vil_tracker.tracking.run import OutputSettings, track_source
from vil_tracker.tracking.select import targets_from_boxes
from vil_tracker.tracking.state import Phase
from vil_tracker.tracking.tracker import Tracker

SIZE = (1280, 720)
PEER_SECONDS = 6.0  # a slow tracker sees as many frames as fit into this


def paint_clip(frames: int) -> tuple[list[np.ndarray], np.ndarray]:
    """RGB frames of 1280×720 and the target's boxes (N, 4)."""
    clip = DemoClip(frames=frames, width=SIZE[0], height=SIZE[1])
    return list(clip), clip.boxes


def run_video(
    network: InferenceNetwork, frames: Sequence[np.ndarray], box: np.ndarray, *, write: bool
) -> dict[str, float | dict[str, float]]:
    """Track the frames from a file, as ``vil-tracker track`` does; writing the file is not timed.

    With ``write`` the annotated video is written, too, and not the boxes alone. Returns ``frames_per_second``, and
    ``milliseconds`` per frame of the parts, which overlap.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = write_video(frames, folder, "clip", FPS)
        timer = StageTimer()
        summary = track_source(
            open_source(str(path)),
            lambda first: targets_from_boxes([box]),
            lambda: Tracker(network, timer=timer),
            OutputSettings(folder=folder / "out", video=write, codec="h264"),
            progress=False,
            timer=timer,
        )
    return {
        "frames_per_second": summary.frames / summary.seconds,
        "milliseconds": {part: 1e3 * value / summary.frames for part, value in timer.seconds.items()},
    }


def run_tracker(tracker: TrackerLike, frames: Sequence[np.ndarray], box: np.ndarray) -> float:
    """Frames per second of ``update`` alone, on frames in memory, for up to :data:`PEER_SECONDS`."""
    tracker.init(frames[0], box)
    begin = time.perf_counter()
    count = 0
    for frame in frames[1:]:
        tracker.update(frame)
        count += 1
        if time.perf_counter() - begin > PEER_SECONDS:
            break
    return count / (time.perf_counter() - begin)


def time_states(network: InferenceNetwork, frames: Sequence[np.ndarray], box: np.ndarray) -> dict[str, float]:
    """Milliseconds of ``update`` while the target is followed, in doubt and lost: medians over frames in memory, which
    three trackers held in these states take in turn. Only "followed" without a calibrated score.
    """
    trackers = {"followed": Tracker(network)}
    if trackers["followed"].confidence is not None:
        trackers |= {"in doubt": Tracker(network), "lost": Tracker(network)}
    seconds: dict[str, list[float]] = {name: [] for name in trackers}
    for tracker in trackers.values():
        tracker.init(frames[0], box)
    for frame in frames[1:]:
        for name, tracker in trackers.items():
            assert tracker.state is not None
            tracker.state.phase = Phase("lost" if name == "lost" else "tracking")
            tracker.state.frames_in_doubt = tracker.config.redetect_after if name == "in doubt" else 0
            begin = time.perf_counter()
            tracker.update(frame)
            seconds[name].append(time.perf_counter() - begin)
    return {name: 1e3 * statistics.median(taken) for name, taken in seconds.items()}


def run_peers(frames: Sequence[np.ndarray], box: np.ndarray, weights_dir: Path | None) -> dict[str, float | None]:
    """Frames per second of every tracker of OpenCV that is installed and of NanoTrack V3, None for the others."""
    builders: dict[str, Callable[[], TrackerLike]] = {
        f"OpenCV {name}": partial(OpenCvTracker, name, weights_dir) for name in KNOWN
    }
    builders["NanoTrack V3"] = partial(NanoTrackV3, weights_dir)
    found: dict[str, float | None] = {}
    for name, build in builders.items():
        try:
            found[name] = run_tracker(build(), frames, box)
        except UserError:
            found[name] = None
    return found
