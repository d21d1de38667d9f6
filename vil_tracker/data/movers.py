"""Things that move through a synthetic clip, and the smooth curves that they follow."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np

from vil_tracker.data.augment import motion_kernel
from vil_tracker.data.sprites import Pose, Sprite, bend, blend, place, warp_sprite


@dataclass
class Mover:
    """One thing and its script, a row per frame.

    Attributes:
        sprite: what it looks like.
        xy: (N, 2) centre of its bounding box in frame pixels, before the camera's shake.
        size: (N,) √(w·h) of its bounding box in frame pixels.
        angle, stretch: (N,), as in :class:`Pose`.
        flip: mirrored left to right.
        grid: bending as in :func:`bend`, swung by ``phase`` (N,); None is rigid.
    """

    sprite: Sprite
    xy: np.ndarray
    size: np.ndarray
    angle: np.ndarray
    stretch: np.ndarray
    flip: bool
    grid: np.ndarray | None = None
    phase: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def at(self, frame: int, shake: np.ndarray) -> tuple[Sprite, np.ndarray]:
        """The sprite as bent in this frame and its 2×3 placement, moved by the camera's shake (2,)."""
        sprite = self.sprite
        if self.grid is not None:
            sprite = bend(sprite, self.grid * self.phase[frame])
        pose = Pose(float(self.angle[frame]), float(self.stretch[frame]), 0.0, self.flip).linear()
        x, y = self.xy[frame] + shake
        return sprite, place(sprite.hull, pose, (float(x), float(y)), float(self.size[frame]))


def draw(
    canvas: np.ndarray, mover: Mover, index: int, shake: np.ndarray
) -> tuple[tuple[slice, slice], np.ndarray] | None:
    """Paste one thing as it is in frame ``index``; returns the touched region and the alpha there, if any."""
    warped = warp_sprite(canvas.shape, *mover.at(index, shake))
    if warped is None:
        return None
    blend(canvas, *warped)
    return warped[0], warped[1][..., 3]


def smear(rgba: np.ndarray, move: np.ndarray) -> np.ndarray:
    """Motion blur of a sprite that moves by ``move`` (2,) pixels while the shutter is open."""
    length = float(np.hypot(*move))
    if not 2.0 < length < 40.0:
        return rgba
    # Colour is blurred together with alpha; the sprite's surroundings are black, so divide that darkening out again.
    kernel = motion_kernel(length, math.atan2(move[1], move[0]))
    alpha = rgba[..., 3:].astype(np.float32) / 255
    blurred = cv2.filter2D(np.dstack([rgba[..., :3] * alpha, alpha]), -1, kernel, borderType=cv2.BORDER_CONSTANT)
    colour = blurred[..., :3] / np.maximum(blurred[..., 3:], 1e-3)
    return np.clip(np.dstack([colour, blurred[..., 3:] * 255]) + 0.5, 0, 255).astype(np.uint8)


def half_extent(mover: Mover, frames: slice) -> np.ndarray:
    """Half of the bounding box's sides (K, 2) in the given frames; bending may add a little, so it is rounded up."""
    result = []
    for i in range(*frames.indices(len(mover.xy))):
        pose = Pose(float(mover.angle[i]), float(mover.stretch[i]), 0.0, mover.flip).linear()
        extent = np.ptp(mover.sprite.hull @ pose.T, axis=0)
        result.append(extent / math.sqrt(float(extent.prod())) * mover.size[i] * 0.55)
    return np.array(result)


def wander(rng: np.random.Generator, n: int, every: float, columns: int) -> np.ndarray:
    """Smooth random curves (n, columns) with values of about ±1 and a new direction every so many frames."""
    return spline(rng.normal(0.0, 1.0, (int(n / every) + 4, columns)), n, every, rng.random())


def smooth_path(rng: np.random.Generator, n: int, low: np.ndarray, high: np.ndarray, every: float) -> np.ndarray:
    """A smooth path (n, 2) inside a rectangle, with changes of speed and direction."""
    return np.clip(spline(rng.uniform(low, high, (int(n / every) + 4, 2)), n, every, rng.random()), low, high)


def spline(knots: np.ndarray, n: int, every: float, offset: float) -> np.ndarray:
    """Uniform Catmull-Rom spline (n, columns) through knots (K, columns), ``every`` frames apart."""
    t = np.arange(n) / every + offset
    k = np.minimum(t.astype(int), len(knots) - 4)
    u = (t - k)[:, None]
    a, b, c, d = (knots[k + j] for j in range(4))
    return 0.5 * (2 * b + (c - a) * u + (2 * a - 5 * b + 4 * c - d) * u**2 + (3 * b - 3 * c + d - a) * u**3)


def hold(n: int, start: int, stop: int, ramp: int) -> np.ndarray:
    """Weights (n,): 0 far from, 1 within [start, stop), with smooth slopes of ``ramp`` frames on both sides."""
    t = np.arange(n)
    rise = np.clip((t - (start - ramp)) / ramp, 0, 1)
    fall = np.clip(((stop - 1 + ramp) - t) / ramp, 0, 1)
    x = np.minimum(rise, fall)
    return x * x * (3 - 2 * x)
