"""Boxes for videos that have none: a tracker goes there and back, and what it agrees on with itself is kept.

Forward-backward consistency as in Kalal et al., "Forward-Backward Error" (2010), on boxes instead of points.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from vil_tracker.boxes import convert, iou
from vil_tracker.results import TrackerLike

RETURN_OVERLAP = 0.7  # of the way back's end with the start
MIDDLE_OVERLAP = 0.55  # of both ways in a frame that is kept
MEAN_SCORE, LEAST_SCORE = 0.6, 0.25
GIVE_UP = 4  # frames in a row with a mean score below LEAST_SCORE + 0.2 end the way there
FLOW_SCALE = 0.5  # of the frames in which motion is looked for
TEXTURED_TRIES = 200  # random boxes in a frame, of which textured ones are chosen


@dataclass(frozen=True)
class PseudoTrack:
    """A stretch of a video from frame ``first`` on with boxes (N, 4) xywh in pixels, the mean of both ways; NaN where
    they disagree.
    """

    first: int
    boxes: np.ndarray


def there_and_back(tracker: TrackerLike, frames: Sequence[np.ndarray], box: np.ndarray) -> np.ndarray | None:
    """Boxes (N, 4) of a target that is found from ``box``, xywh in pixels, on the first of N frames, (H, W, 3) uint8
    RGB, and back again; None where it is not. The tracker's score is a probability.
    """
    there = _follow(tracker, frames, box)
    if there is None:
        return None
    back = _follow(tracker, frames[::-1], there[-1])
    if back is None or iou(back[-1], box) <= RETURN_OVERLAP:
        return None
    back = back[::-1]
    agrees = np.array([float(iou(a, b)) > MIDDLE_OVERLAP for a, b in zip(there, back, strict=True)])
    boxes = np.where(agrees[:, None], (there + back) / 2, np.nan)
    boxes[0] = box
    return boxes


def _follow(tracker: TrackerLike, frames: Sequence[np.ndarray], box: np.ndarray) -> np.ndarray | None:
    """Boxes (N, 4), or None where the score does not stay high."""
    tracker.init(frames[0], box)
    boxes, scores = [np.asarray(box, np.float64)], [1.0]
    for frame in frames[1:]:
        result = tracker.update(frame)
        boxes.append(result.box)
        scores.append(result.score)
        if len(scores) > GIVE_UP and np.mean(scores[-GIVE_UP:]) < LEAST_SCORE + 0.2:
            return None
    return np.stack(boxes) if np.mean(scores) >= MEAN_SCORE and min(scores) >= LEAST_SCORE else None


def moving_boxes(first: np.ndarray, second: np.ndarray, rng: np.random.Generator) -> list[np.ndarray]:
    """Boxes, xywh in pixels and in random order, around what moves against the background between two frames.

    The background's motion is an affine map, fitted to dense optical flow by iterated weighting.
    """
    grey = [
        cv2.resize(
            cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), None, fx=FLOW_SCALE, fy=FLOW_SCALE, interpolation=cv2.INTER_AREA
        )
        for frame in (first, second)
    ]
    height, width = grey[0].shape
    flow = cv2.calcOpticalFlowFarneback(grey[0], grey[1], None, 0.5, 3, 13, 2, 5, 1.1, 0)  # type: ignore[call-overload]
    y, x = np.mgrid[0:height, 0:width]
    places = np.stack([x.ravel(), y.ravel(), np.ones(height * width)], axis=1)
    vectors, some = flow.reshape(-1, 2), slice(None, None, 37)
    weight = np.ones(len(places[some]))
    for _ in range(3):
        rows = weight[:, None]
        background = np.linalg.lstsq(places[some] * rows, vectors[some] * rows, rcond=None)[0]
        residual = np.linalg.norm(vectors[some] - places[some] @ background, axis=1)
        weight = 1 / (1 + (residual / (np.median(residual) + 0.1)) ** 2)
    motion = np.linalg.norm(vectors - places @ background, axis=1).reshape(height, width)
    moving = (motion > max(1.0, 2.5 * float(np.median(motion)))).astype(np.uint8)
    moving = cv2.morphologyEx(moving, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)).astype(np.uint8)
    _, _, statistics, _ = cv2.connectedComponentsWithStats(moving)
    found = []
    for left, top, w, h, area in statistics[1:]:
        fits = 8 <= w < 0.6 * width and 8 <= h < 0.75 * height and area > 0.3 * w * h
        if fits and left > 1 and top > 1 and left + w < width - 1 and top + h < height - 1:
            found.append(np.array([left, top, w, h], np.float64) / FLOW_SCALE)
    rng.shuffle(found)  # type: ignore[arg-type]
    return found


def textured_boxes(frame: np.ndarray, rng: np.random.Generator, count: int = 2) -> list[np.ndarray]:
    """Boxes, xywh in pixels and in random order, whose inside is rich in edges and unlike what surrounds it.

    Random boxes are ranked by the mean gradient inside times the distance of the mean colours inside and around.
    """
    height, width = frame.shape[:2]
    scale = np.exp(rng.uniform(np.log(20), np.log(max(0.4 * min(height, width), 21)), TEXTURED_TRIES))
    aspect = np.exp(rng.uniform(-np.log(2.2), np.log(2.2), TEXTURED_TRIES))
    size = np.stack([scale * np.sqrt(aspect), scale / np.sqrt(aspect)], axis=1)
    corner = rng.uniform(size=(TEXTURED_TRIES, 2)) * np.maximum(np.array([width, height]) - size, 0)
    boxes = np.concatenate([corner, size], axis=1)
    grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
    edges = np.hypot(*(cv2.Sobel(grey, cv2.CV_32F, *order) for order in ((1, 0), (0, 1))))
    sums = cv2.integral(np.dstack([frame, np.minimum(edges, 400)]).astype(np.float64))

    def total(xywh: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sum of colours and edges in boxes (N, 4), and number of pixels."""
        ends = convert(xywh, "xywh", "xyxy").round().astype(int)
        left, right = np.clip(ends[:, 0], 0, width), np.clip(ends[:, 2], 0, width)
        top, bottom = np.clip(ends[:, 1], 0, height), np.clip(ends[:, 3], 0, height)
        found = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
        return found, np.maximum((right - left) * (bottom - top), 1)[:, None]

    inside, area = total(boxes)
    wide, wide_area = total(np.concatenate([corner - size / 4, 1.5 * size], axis=1))
    around = (wide - inside) / np.maximum(wide_area - area, 1)
    contrast = np.linalg.norm((inside / area - around)[:, :3], axis=1)
    best = np.argsort(-(inside / area)[:, 3] * contrast)[: 4 * count]
    return list(boxes[rng.permutation(best)[:count]])


def pseudo_tracks(
    tracker: TrackerLike,
    frames: Sequence[np.ndarray],
    rng: np.random.Generator,
    *,
    attempts: int = 12,
    length: int = 56,
    most: int = 4,
    textured: bool = False,
) -> Iterator[PseudoTrack]:
    """Tracks of a video's moving things, or of :func:`textured_boxes`, found by a teacher from random frames on, of
    which ``attempts`` are tried; ``most`` of at most ``length`` frames.
    """
    kept: list[PseudoTrack] = []
    for _ in range(attempts):
        if len(frames) < 16 or len(kept) == most:
            return
        first = int(rng.integers(0, max(1, len(frames) - length // 2)))
        part = frames[first : first + length]
        if len(part) < 16:
            continue
        starts = textured_boxes(part[0], rng) if textured else moving_boxes(part[0], part[3], rng)
        for box in starts[:2]:
            if any(abs(track.first - first) < length and iou(track.boxes[0], box) > 0.3 for track in kept):
                continue
            boxes = there_and_back(tracker, part, box)
            if boxes is not None:
                kept.append(PseudoTrack(first, boxes))
                yield kept[-1]
                break
