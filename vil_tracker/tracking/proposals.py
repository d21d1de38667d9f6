"""Boxes for a click: what may be the thing under a point, whatever it is.

Candidates come from OpenCV alone: GrabCut from discs of growing size around the point, in a window of a few times the
disc or in the whole picture, and the region of similar colour that holds the point. A linear function of a dozen
measures of each (size, filling, contrast with what is around it, how many other candidates agree) puts them in order;
it was fitted by ``scripts/click_proposals.py``, which also measures the share of clicks that it serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from vil_tracker.boxes import box_centre, box_scale, clip_box, iou

_LOCAL_SCALES = (0.03, 0.05, 0.08, 0.13, 0.2)  # radius of a disc in units of √(W·H), seen in a window around it
_WHOLE_SCALES = (0.15, 0.25, 0.36, 0.55)  # the same, seen in the whole picture
_TOLERANCES = (12, 20, 30)  # steps of colour that a region may take from pixel to pixel
_REACH, _LOCAL_SIDE, _WHOLE_SIDE = 3.2, 96, 120
_SAME = 0.5  # overlap from which on two boxes are one proposal
#: Weights of the measures in the order of :func:`measure`.
WEIGHTS = np.array(
    (0.0871, 0.2837, 0.0483, -0.0923, -0.5033, -0.1347, -0.2413, -0.1804, 0.8274)
    + (-0.7441, -0.0414, 0.0497, 1.5286, -0.1781, 0.0218, 0.0271, -0.0212)
)


@dataclass(frozen=True)
class Candidate:
    """A box that may be the thing that was clicked."""

    box: np.ndarray  # (4,) xywh in pixels of the image
    scale: float  # size in units of √(W·H) that it was looked for with; 0 of a region of colour
    filled: float  # share of the box that the segment fills


def propose_boxes(image: np.ndarray, point: Sequence[float] | np.ndarray, count: int = 3) -> list[np.ndarray]:
    """Boxes that may be the thing under a point x, y in pixels of an image (H, W, 3) uint8 RGB, best first.

    One to ``count`` boxes (4,) float64 xywh inside the image, which differ from each other.
    """
    at = np.clip(np.asarray(point, np.float64), 0, np.array(image.shape[1::-1]) - 1.0)
    candidates = find_candidates(image, at)
    chosen: list[np.ndarray] = []
    for index in np.argsort(-(measure(image, at, candidates) @ WEIGHTS), kind="stable"):
        box = candidates[index].box
        if all(iou(box, other) < _SAME for other in chosen):
            chosen.append(box)
        if len(chosen) == count:
            break
    return chosen


def find_candidates(image: np.ndarray, point: np.ndarray) -> list[Candidate]:
    """All boxes that are considered, at least one; ``point`` is (2,) x, y inside the image."""
    height, width = image.shape[:2]
    unit = float(np.sqrt(width * height))
    found = []
    for scale in _LOCAL_SCALES:
        reach = _REACH * max(2.0, scale * unit)
        x0, y0 = np.maximum(np.floor(point - reach), 0).astype(int)
        x1, y1 = np.minimum(np.ceil(point + reach) + 1, (width, height)).astype(int)
        found += _cut(image[y0:y1, x0:x1], point, np.array([x0, y0]), scale, unit, _LOCAL_SIDE)
    for scale in _WHOLE_SCALES:
        found += _cut(image, point, np.zeros(2), scale, unit, _WHOLE_SIDE)
    found += _regions(image, point)
    if not found:  # a picture of a few pixels
        size = min(width, height, max(2.0, 0.1 * unit))
        corner = np.clip(point - size / 2, 0, np.array([width, height]) - size)
        found.append(Candidate(np.array([*corner, size, size]), 0.1, 1.0))
    return [replace(candidate, box=clip_box(candidate.box, width, height)) for candidate in found]  # factors round


def _shrunk(image: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    """The image as BGR with a longer side of at most ``side`` pixels, or up to twice as large, and the factor."""
    factor = min(2.0, side / max(image.shape[:2]))
    size = tuple(max(1, round(factor * length)) for length in image.shape[1::-1])
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR)
    return np.ascontiguousarray(small[..., ::-1]), factor


def _cut(
    window: np.ndarray, point: np.ndarray, corner: np.ndarray, scale: float, unit: float, side: int
) -> list[Candidate]:
    """GrabCut in a window of the image whose first pixel is ``corner``, from a disc around the point."""
    small, factor = _shrunk(window, side)
    height, width = small.shape[:2]
    if min(height, width) < 8:
        return []
    at, radius = (point - corner) * factor, max(2.0, scale * unit) * factor
    rows, columns = np.ogrid[:height, :width]
    distance = np.hypot(columns - at[0], rows - at[1])
    mask = np.full((height, width), cv2.GC_BGD, np.uint8)
    mask[distance < 2.2 * radius] = cv2.GC_PR_BGD
    mask[distance < radius] = cv2.GC_PR_FGD
    mask[distance < max(1.5, 0.25 * radius)] = cv2.GC_FGD
    if np.count_nonzero(mask == cv2.GC_BGD) < 50:
        mask[[0, -1]] = mask[:, [0, -1]] = cv2.GC_BGD
    cv2.setRNGSeed(0)  # its clusters of colours begin at random
    try:
        cv2.grabCut(small, mask, (0, 0, 1, 1), np.zeros((1, 65)), np.zeros((1, 65)), 3, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # too few pixels of a kind
        return []
    ours = ((mask == cv2.GC_FGD) | (mask == cv2.GC_PR_FGD)).astype(np.uint8)
    ours = cv2.morphologyEx(ours, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    count, labels, stats, _ = cv2.connectedComponentsWithStats(ours)
    if count < 2:
        return []
    label = int(labels[min(height - 1, int(at[1])), min(width - 1, int(at[0]))])
    x, y, w, h, area = stats[label or 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))]
    box = np.array([x, y, w, h], np.float64) / factor
    return [Candidate(np.concatenate((box[:2] + corner, box[2:])), scale, area / (w * h))]


def _regions(image: np.ndarray, point: np.ndarray) -> list[Candidate]:
    """Connected pixels of similar colour around the point, after smoothing."""
    small, factor = _shrunk(image, _WHOLE_SIDE)
    height, width = small.shape[:2]
    smooth = cv2.cvtColor(cv2.pyrMeanShiftFiltering(small, 8, 20), cv2.COLOR_BGR2LAB)
    seed = (min(width - 1, int(point[0] * factor)), min(height - 1, int(point[1] * factor)))
    found = []
    for tolerance in _TOLERANCES:
        mask = np.zeros((height + 2, width + 2), np.uint8)
        step = (tolerance,) * 3
        cv2.floodFill(smooth, mask, seed, 0, step, step, 4 | cv2.FLOODFILL_MASK_ONLY | (1 << 8))
        x, y, w, h = cv2.boundingRect(mask[1:-1, 1:-1])
        box = np.array([x, y, w, h], np.float64) / factor
        found.append(Candidate(box, 0.0, np.count_nonzero(mask[1:-1, 1:-1]) / (w * h)))
    return found


def measure(image: np.ndarray, point: np.ndarray, candidates: Sequence[Candidate]) -> np.ndarray:
    """(N, 17) measures of the candidates, from which :data:`WEIGHTS` make a score."""
    height, width = image.shape[:2]
    boxes = [candidate.box for candidate in candidates]
    overlaps = np.array([[iou(a, b) for b in boxes] for a in boxes])
    rows = []
    for candidate, overlap in zip(candidates, overlaps, strict=True):
        x, y, w, h = candidate.box
        size = np.log(box_scale(candidate.box) / np.sqrt(width * height))
        grown = np.log(candidate.scale) - size if candidate.scale else 0.0
        aside = np.abs((point - box_centre(candidate.box)) / candidate.box[2:])
        edges = (x <= 1) + (y <= 1) + (x + w >= width - 1) + (y + h >= height - 1)
        agreeing = np.sort(overlap)[::-1][1:4]
        rows.append(
            [
                *(1.0, size, size * size, abs(np.log(w / h)), aside.max(), aside.min(), edges, edges * size),
                *(candidate.filled, candidate.filled**2, _contrast(image, candidate.box)),
                *(agreeing.mean() if len(agreeing) else 0.0, overlap.mean(), (overlap > 0.7).mean()),
                *(grown, grown * grown, candidate.scale == 0.0),
            ]
        )
    return np.array(rows, np.float64)


def _contrast(image: np.ndarray, box: np.ndarray) -> float:
    """Distance (chi square, in [0, 1]) of the colours in a box from those around it, a third of its size wide."""
    height, width = image.shape[:2]
    margin = box[2:] / 3
    x0, y0 = np.maximum(box[:2] - margin, 0).astype(int)
    x1, y1 = np.minimum(box[:2] + box[2:] + margin + 1, (width, height)).astype(int)
    small, factor = _shrunk(image[y0:y1, x0:x1], 48)
    colours = (small // 43).astype(np.int64) @ np.array([36, 6, 1])
    left, top = np.round((box[:2] - (x0, y0)) * factor).astype(int)
    right, bottom = np.maximum(np.round((box[:2] + box[2:] - (x0, y0)) * factor).astype(int), (left + 1, top + 1))
    inside = np.bincount(colours[top:bottom, left:right].ravel(), minlength=216).astype(np.float64)
    around = np.bincount(colours.ravel(), minlength=216) - inside
    if inside.sum() < 1 or around.sum() < 5:
        return 0.0
    a, b = inside / inside.sum(), around / around.sum()
    return float(0.5 * ((a - b) ** 2 / (a + b + 1e-9)).sum())
