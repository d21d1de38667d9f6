"""Tracking metrics on plain arrays: per-frame errors and the curves and numbers made from them.

Boxes are float arrays (N, 4) of x, y, w, h in pixels. Which frames count and how special cases are handled differs
from benchmark to benchmark; that belongs to `conventions.py`. Here a frame is a frame.

Sources: success and precision of the one-pass evaluation (Wu, Lim, Yang: "Object Tracking Benchmark", PAMI 2015);
normalised precision (Müller et al.: "TrackingNet", ECCV 2018, equation 2); AO and SR (Huang, Zhao, Huang: "GOT-10k",
PAMI 2019).
"""

from __future__ import annotations

import numpy as np

from vil_tracker.boxes import iou as box_iou
from vil_tracker.errors import UserError

SUCCESS_THRESHOLDS = np.linspace(0.0, 1.0, 21)
PRECISION_PIXELS = 20.0
PRECISION_NORMALIZED = 0.2


def check_boxes(boxes: np.ndarray, what: str = "boxes", *, allow_missing: bool = False) -> np.ndarray:
    """Return `boxes` as (N, 4) float64 after checking them; rows of NaN may be allowed, as missing.

    Raises:
        UserError: no boxes at all, a wrong shape, NaN or infinite numbers, or a negative width or height; the message
            begins with `what` and names the line (one-based, one line per frame).
    """
    array = np.asarray(boxes, dtype=np.float64)
    if array.size == 0:
        raise UserError(f"{what}: no boxes; one line 'x,y,w,h' per frame is needed")
    if array.ndim != 2 or array.shape[1] != 4:
        raise UserError(f"{what}: boxes of shape {array.shape}; (frames, 4) is needed: x, y, w, h")
    missing = np.isnan(array).all(axis=1) if allow_missing else np.zeros(len(array), dtype=bool)
    broken = ~np.isfinite(array).all(axis=1) & ~missing
    negative = (np.nan_to_num(array[:, 2:]) < 0).any(axis=1)
    for rows, fault in ((broken, "is not finite; write four numbers"), (negative, "has a negative width or height")):
        if rows.any():
            line = int(np.flatnonzero(rows)[0])
            raise UserError(f"{what}: line {line + 1}: box {array[line].tolist()} {fault}")
    return array


def overlaps(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Intersection over union of each predicted box (N, 4) with the truth (N, 4), on continuous coordinates: (N,).

    Rows in which either box is NaN give NaN; empty boxes overlap with nothing.
    """
    missing = np.isnan(predicted).any(axis=1) | np.isnan(truth).any(axis=1)
    return np.where(missing, np.nan, box_iou(predicted, truth))


def center_errors(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Distance in pixels between the box centres, (N, 4) and (N, 4) -> (N,)."""
    return np.hypot(*_center_difference(predicted, truth).T)


def normalized_center_errors(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Distance between the box centres in units of the true width and height, (N,).

    A true box without width or height has no such unit: the error is then infinite unless the centres coincide.
    """
    difference = np.abs(_center_difference(predicted, truth))
    with np.errstate(divide="ignore", invalid="ignore"):
        scaled = difference / truth[:, 2:]
    scaled[(difference == 0) & (truth[:, 2:] == 0)] = 0.0
    return np.hypot(scaled[:, 0], scaled[:, 1])


def _center_difference(predicted: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return (predicted[:, :2] + predicted[:, 2:] / 2) - (truth[:, :2] + truth[:, 2:] / 2)


def success_curve(iou: np.ndarray, thresholds: np.ndarray = SUCCESS_THRESHOLDS) -> np.ndarray:
    """Share of frames whose overlap (N,) is greater than each threshold (T,): (T,). NaN never counts as a success."""
    return _share(iou[:, None] > thresholds[None, :])


def precision_curve(errors: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of frames whose centre error (N,) is at most each threshold (T,): (T,). NaN never counts as a success."""
    return _share(errors[:, None] <= thresholds[None, :])


def _share(hits: np.ndarray) -> np.ndarray:
    if len(hits) == 0:
        raise UserError("no frame to score: every frame is excluded by the convention")
    return hits.mean(axis=0)


def success_auc(predicted: np.ndarray, truth: np.ndarray) -> float:
    """Area under the success curve (mean over 21 thresholds) of one sequence's boxes (N, 4) x, y, w, h, in [0, 1].

    Frame 1 is scored as the ground truth, as every one-pass evaluation does; frames whose true box is NaN are left out.

    Raises:
        UserError: empty, non-finite or unequally many boxes.
    """
    predicted = check_boxes(predicted, "predicted boxes")
    truth = check_boxes(truth, "true boxes", allow_missing=True)
    if len(predicted) != len(truth):
        raise UserError(f"{len(predicted)} predicted boxes for {len(truth)} true boxes; one per frame is needed")
    overlap = overlaps(np.concatenate([truth[:1], predicted[1:]]), truth)
    return float(success_curve(overlap[~np.isnan(overlap)]).mean())
