"""Tracking in one call."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator

import numpy as np

from vil_tracker.boxes import BoxLike
from vil_tracker.config import DEFAULT_WEIGHTS, TrackConfig
from vil_tracker.errors import UserError
from vil_tracker.models.network import ViLTrackerNet
from vil_tracker.results import Result
from vil_tracker.tracking.tracker import Tracker


def track(
    source: str | os.PathLike[str] | int | Iterable[np.ndarray],
    box: BoxLike,
    *,
    model: str | os.PathLike[str] | ViLTrackerNet = DEFAULT_WEIGHTS,
    device: str = "auto",
    config: TrackConfig | None = None,
    start: int | str = 0,
    stride: int = 1,
) -> Iterator[tuple[int, Result]]:
    """Follow one target through a video, frame by frame.

    Frames are decoded as they are asked for, so memory stays constant; stopping early is fine.

    Args:
        source: video file, image folder, glob, webcam index or stream address, as of ``vil-tracker track``; or any
            iterable of frames, (H, W, 3) uint8 RGB each.
        box: x, y, w, h of the target in pixels of the first frame that is tracked.
        model: a network, or a name, file or hub id for :func:`vil_tracker.load_model`.
        device: for :func:`vil_tracker.load_model`; not used with a network, which has its own.
        config: thresholds of the session.
        start: the first frame, or a time such as ``"00:01:02"``; not for iterables.
        stride: use every stride-th frame.

    Returns:
        An iterator of (frame index in the source, result); the first result is the given box with score 1.

    Raises:
        UserError: the source cannot be read, the weights cannot be loaded, or the box does not fit the first frame.

    Example:
        >>> for index, result in vil_tracker.track("video.mp4", box=(120, 80, 64, 48)):
        ...     print(index, result.box, result.score, result.state)
    """
    from vil_tracker.io.files import open_source
    from vil_tracker.io.source import parse_start
    from vil_tracker.models.pretrained import load_model

    with contextlib.ExitStack() as stack:
        if isinstance(source, (str, os.PathLike, int)):
            name = str(source) if isinstance(source, int) else source
            opened = open_source(name, start=parse_start(str(start)), stride=stride)
            stack.callback(opened.close)
            frames: Iterator[tuple[int, np.ndarray]] = ((frame.number, frame.image) for frame in opened)
        elif not hasattr(source, "__iter__"):
            raise UserError(f"a source is a path, a camera's index or an iterable of frames, not {source!r:.80}")
        elif str(start) != "0" or stride < 1:
            advice = "cut it yourself, and give a stride of 1 or more"
            raise UserError(f"start and stride of an iterable of frames: {advice}")
        else:  # the iterable is its owner's to close
            frames = (item for item in enumerate(source) if item[0] % stride == 0)
        network = load_model(model, device) if isinstance(model, (str, os.PathLike)) else model
        return _run(frames, Tracker(network, config), box, stack.pop_all())


def _run(
    frames: Iterator[tuple[int, np.ndarray]], tracker: Tracker, box: BoxLike, stack: contextlib.ExitStack
) -> Iterator[tuple[int, Result]]:
    with stack:
        for count, (index, image) in enumerate(frames):
            yield index, tracker.update(image) if count else tracker.init(image, box)
