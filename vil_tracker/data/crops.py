"""Square crops around a target: the one piece of geometry that training, evaluation and video share.

A crop is a square region of the image, ``side`` pixels wide and centred on (cx, cy), resampled to ``size`` × ``size``.
Continuous coordinates are used throughout: pixel i covers the interval [i, i + 1), so that a box's corners map exactly
and a round trip through the crop costs nothing but floating-point rounding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TypeVar

import cv2
import numpy as np
import torch

from vil_tracker.boxes import BoxLike
from vil_tracker.models.stem import IMAGENET_MEAN, IMAGENET_STD

Scale = TypeVar("Scale", float, np.ndarray)  # √(w·h) of one box, or (B,) of several

MIN_SIDE = 8.0  # pixels; a target of one pixel still gets a crop that can be resampled
SNAP = 2048  # steps that a crop's side has at least on the grid of snapped()


@dataclass(frozen=True)
class CropGeometry:
    """Where a crop lies in the image.

    Attributes:
        cx, cy: centre in image pixels.
        side: side of the square in image pixels.
        size: side of the resampled crop in crop pixels.
    """

    cx: float
    cy: float
    side: float
    size: int

    def to_crop(self, box: BoxLike) -> np.ndarray:
        """Map xywh in image pixels (..., 4) to xyxy in units of the crop (0 to 1 inside it)."""
        box = np.asarray(box, np.float64)
        origin = np.array([self.cx, self.cy]) - self.side / 2
        low = (box[..., :2] - origin) / self.side
        return np.concatenate([low, low + box[..., 2:] / self.side], axis=-1)

    def to_image(self, box: BoxLike) -> np.ndarray:
        """Map xyxy in units of the crop (..., 4) to xywh in image pixels; the inverse of :meth:`to_crop`."""
        box = np.asarray(box, np.float64)
        origin = np.array([self.cx, self.cy]) - self.side / 2
        low = box[..., :2] * self.side + origin
        return np.concatenate([low, (box[..., 2:] - box[..., :2]) * self.side], axis=-1)

    def snapped(self) -> CropGeometry:
        """The nearest geometry on a grid of less than a two-thousandth of the side.

        Two programs of one network differ by a millionth of the crop. Resampling turns that into whole steps, of 1/32
        pixel and of 1/255 in brightness, and a session that crops around its own last box feeds them back: after some
        thirty frames the boxes differ visibly. Crops on a grid are the same again.
        """
        step = 2.0 ** math.floor(math.log2(self.side)) / SNAP
        cx, cy, side = (step * round(value / step) for value in (self.cx, self.cy, self.side))
        return replace(self, cx=cx, cy=cy, side=side)

    def matrix(self) -> np.ndarray:
        """The 2×3 affine matrix from image to crop in OpenCV's convention, whose pixel i has its centre at i."""
        scale = self.size / self.side
        x0, y0 = self.cx - self.side / 2, self.cy - self.side / 2
        # continuous: u = (x - x0)·scale; with x = i + ½ and u = j + ½:  j = i·scale + (½ - x0)·scale - ½
        return np.array([[scale, 0.0, (0.5 - x0) * scale - 0.5], [0.0, scale, (0.5 - y0) * scale - 0.5]])


def geometry_for_box(box: BoxLike, factor: float, size: int) -> CropGeometry:
    """The crop centred on an xywh box whose side is ``factor`` × √(w·h) (OSTrack's and STARK's convention)."""
    x, y, w, h = (float(v) for v in np.asarray(box, np.float64))
    side = max(factor * float(np.sqrt(max(w * h, 0.0))), MIN_SIDE)
    return CropGeometry(x + w / 2, y + h / 2, side, size)


def mean_colour(image: np.ndarray) -> tuple[float, ...]:
    """The fill for what lies outside an image: its mean colour per channel (SiamFC's convention)."""
    step = max(1, min(image.shape[:2]) // 64)  # a sparse sample gives the same mean for a hundredth of the time
    return cv2.mean(np.ascontiguousarray(image[::step, ::step]))[: image.shape[2]]


def crop(
    image: np.ndarray, geometry: CropGeometry, fill: tuple[float, ...] | None = None, out: np.ndarray | None = None
) -> np.ndarray:
    """Cut one crop out of an image (H, W, 3) uint8 RGB: (size, size, 3) uint8, written to ``out`` where that is given.
    ``fill`` is the colour outside the image; its mean colour by default, taken where it is needed.
    """
    size = geometry.size
    x0, y0 = geometry.cx - geometry.side / 2, geometry.cy - geometry.side / 2
    if fill is None:
        fill = mean_colour(image) if _leaves(image, x0, y0, geometry) else (0.0, 0.0, 0.0)
    matrix = geometry.matrix()
    if geometry.side > 1.5 * size:
        # A bilinear tap every `side/size` pixels would alias: average whole pixels first, then place sub-pixel exactly.
        image, matrix = _shrink(image, x0, y0, geometry, matrix)
    return cv2.warpAffine(
        image, matrix, (size, size), dst=out, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT, borderValue=fill
    )


def _leaves(image: np.ndarray, x0: float, y0: float, geometry: CropGeometry) -> bool:
    """Whether a crop, with the pixels that its own at the border are made of, may reach outside the image."""
    margin = 1.0 + geometry.side / geometry.size
    height, width = image.shape[:2]
    low, high = min(x0, y0), max(x0 + geometry.side - width, y0 + geometry.side - height)
    return low < margin or high > -margin


def _shrink(
    image: np.ndarray, x0: float, y0: float, geometry: CropGeometry, matrix: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Average the part of the image under the crop by a whole factor, and adapt the matrix to the smaller image."""
    height, width = image.shape[:2]
    k = max(1, int(geometry.side / geometry.size + 0.5))
    left, right = _whole_blocks(int(np.floor(x0)) - k, int(np.ceil(x0 + geometry.side)) + k, width, k)
    top, bottom = _whole_blocks(int(np.floor(y0)) - k, int(np.ceil(y0 + geometry.side)) + k, height, k)
    columns, rows = (right - left) // k, (bottom - top) // k
    if k == 1 or columns < 1 or rows < 1:
        return image, matrix
    # Resize the whole region, a ragged edge included, so that nothing is cut off at the image's border.
    part = cv2.resize(image[top:bottom, left:right], (columns, rows), interpolation=cv2.INTER_AREA)
    sx, sy = (right - left) / columns, (bottom - top) / rows
    scale = geometry.size / geometry.side
    # x = left + (i + ½)·sx, so j = (x - x0)·scale - ½
    small = np.array(
        [
            [scale * sx, 0.0, (left + 0.5 * sx - x0) * scale - 0.5],
            [0.0, scale * sy, (top + 0.5 * sy - y0) * scale - 0.5],
        ]
    )
    return part, small


def _whole_blocks(low: int, high: int, limit: int, k: int) -> tuple[int, int]:
    """The interval's part in [0, limit], made longer to a multiple of ``k`` where there is room: whole blocks are
    averaged twenty times as fast as fractions.
    """
    low, high = max(0, low), min(limit, high)
    missing = -(high - low) % k
    after = min(missing, limit - high)
    before = min(missing - after, low)
    return (low - before, high + after) if before + after == missing else (low, high)


def _constant(values: tuple[float, ...], like: torch.Tensor) -> torch.Tensor:
    """The numbers on the device of ``like``, filled in there: a copy from the host would wait for it."""
    if like.device.type == "cpu":
        return like.new_tensor(values)
    return torch.cat([like.new_full((1,), value) for value in values])


def to_input(
    crops: np.ndarray | torch.Tensor, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Turn uint8 RGB crops (..., H, W, 3) into the network's input (..., 3, H, W), normalised as ImageNet is.

    The bytes travel to the device and are normalised there, a quarter of the traffic of floats.
    """
    tensor = crops if isinstance(crops, torch.Tensor) else torch.from_numpy(np.ascontiguousarray(crops))
    columns = tensor.shape[-2]
    # A whole row of pixels at a time: three numbers would be too few for the processor's vectors.
    rows = tensor.to(device, non_blocking=True).to(dtype).flatten(-2)
    mean, std = (_constant(values, rows).mul_(255).repeat(columns) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (rows - mean).div_(std).unflatten(-1, (columns, 3)).movedim(-1, -3)


def ema_scale(scale: Scale, found: Scale, gain: float) -> Scale:
    """What search crops are made for after a box of scale ``found``: a share ``gain`` of the change, as a logarithm."""
    return scale * (found / scale) ** gain
