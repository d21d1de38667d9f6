"""Boxes: the only place where their formats are converted.

At every public boundary a box is ``x, y, w, h`` in pixels, float, with the origin at the image's top left. Inside,
``xyxy`` (two corners) and ``cxcywh`` (centre and size) occur as well. Conversions keep the input's dtype and work on
numpy arrays and tensors of shape (..., 4) alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np

from vil_tracker.errors import UserError

if TYPE_CHECKING:
    import torch

    Array = TypeVar("Array", np.ndarray, torch.Tensor)

BoxFormat = Literal["xywh", "xyxy", "cxcywh"]
BoxLike = Sequence[float] | np.ndarray


def convert(boxes: Array, source: BoxFormat, target: BoxFormat) -> Array:
    """Convert boxes (..., 4) from one format to another; the result is a new array of the same kind and dtype."""
    if not isinstance(boxes, np.ndarray | list | tuple):
        from torchvision.ops import box_convert  # here: tracking needs no torchvision, and its import takes seconds

        return box_convert(boxes, source, target)
    array = np.asarray(boxes)
    if not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)  # a centre may lie between two pixels
    first, second = array[..., :2], array[..., 2:]
    if source == target:
        return array.copy()
    # By way of both corners, as torchvision does.
    if source == "cxcywh":
        low, high = first - second / 2, first + second / 2
    else:
        low, high = first, second if source == "xyxy" else first + second
    if target == "xyxy":
        return np.concatenate([low, high], -1)
    return np.concatenate([low if target == "xywh" else (low + high) / 2, high - low], -1)


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of boxes a and b, (..., 4) xywh in the same unit, broadcast against each other.

    (...) float64 in [0, 1]; 0 where either box is empty or not finite.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        # Axis by axis: NumPy's reductions over the last axis take several times as long.
        (ax, ay, aw, ah), (bx, by, bw, bh) = np.moveaxis(a, -1, 0), np.moveaxis(b, -1, 0)
        width = np.maximum(np.minimum(ax + aw, bx + bw) - np.maximum(ax, bx), 0.0)
        height = np.maximum(np.minimum(ay + ah, by + bh) - np.maximum(ay, by), 0.0)
        intersection = width * height
        union = aw * ah + bw * bh - intersection
        usable = (aw > 0) & (ah > 0) & (bw > 0) & (bh > 0) & np.isfinite(union) & (union > 0)
        return np.where(usable, np.minimum(intersection / np.where(usable, union, 1.0), 1.0), 0.0)


def clip_box(box: BoxLike, width: float, height: float, min_size: float = 1.0) -> np.ndarray:
    """Bring one xywh box inside a ``width`` × ``height`` frame, with sides of at least ``min_size`` pixels.

    A box that lies wholly outside becomes one of ``min_size`` at the nearest edge. ``min_size`` is lowered to the
    frame's own size where the frame is smaller. Values that are not finite count as 0.
    """
    x1, y1, w, h = (float(v) if math.isfinite(v) else 0.0 for v in np.asarray(box, np.float64))
    x2, y2 = x1 + max(w, 0.0), y1 + max(h, 0.0)
    x1, x2 = _clip_interval(x1, x2, float(width), min_size)
    y1, y2 = _clip_interval(y1, y2, float(height), min_size)
    return np.array([x1, y1, x2 - x1, y2 - y1])


def _clip_interval(low: float, high: float, limit: float, min_size: float) -> tuple[float, float]:
    size = min(min_size, limit)
    low = min(max(low, 0.0), limit - size)
    return low, max(min(high, limit), low + size)


def parse_box(text: str) -> np.ndarray:
    """Read ``"x,y,w,h"`` as typed on a command line; UserError where it is not four finite numbers."""
    parts = text.replace(" ", ",").split(",")
    try:
        values = [float(part) for part in parts if part]
    except ValueError:
        values = []
    if len(values) != 4 or not all(math.isfinite(value) for value in values):
        raise UserError(f"box {text!r} is not four numbers: write it as x,y,w,h in pixels, such as 120,80,64,48")
    return np.array(values)


def check_box(box: BoxLike, width: int, height: int) -> np.ndarray:
    """Return ``box`` as a float64 array (4,) xywh after checking that a tracker can start on it.

    A box that is partly outside the frame is accepted as it is: targets do stand at the frame's edge. UserError for a
    wrong number of values, not finite ones, no area, or one wholly outside the frame.
    """
    try:
        array = np.asarray(box, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"a box is four numbers x,y,w,h, not {box!r:.80}: give them as (120, 80, 64, 48)") from error
    if array.shape != (4,):
        raise UserError(f"a box has four numbers x,y,w,h, not an array of shape {array.shape}: {box!r:.80}")
    shown = ",".join(f"{value:g}" for value in array)
    if not np.isfinite(array).all():
        raise UserError(f"box {shown} has a value that is not finite: give x,y,w,h in pixels")
    x, y, w, h = array
    if w <= 0 or h <= 0:
        raise UserError(f"box {shown} has no area: width and height (the last two numbers) must be above 0")
    inside_w, inside_h = min(x + w, width) - max(x, 0.0), min(y + h, height) - max(y, 0.0)
    if inside_w <= 0 or inside_h <= 0:
        raise UserError(f"box {shown} lies outside the {width}x{height} frame: give x,y,w,h in the frame's pixels")
    if w > 1e3 * width or h > 1e3 * height:
        raise UserError(f"box {shown} is far larger than the {width}x{height} frame: give x,y,w,h in its pixels")
    return array


def box_centre(box: np.ndarray) -> np.ndarray:
    """(2,) centre of an xywh box."""
    return box[:2] + box[2:] / 2


def box_scale(box: np.ndarray) -> float:
    """√(w·h) of an xywh box, at least 1."""
    return max(math.sqrt(float(box[2] * box[3])), 1.0)


def centred_box(centre: np.ndarray, size: np.ndarray) -> np.ndarray:
    """The xywh box of a size (2,) around a centre (2,)."""
    return np.concatenate([centre - size / 2, size])
