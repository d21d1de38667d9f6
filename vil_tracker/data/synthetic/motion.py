"""What a synthetic clip shows: things that move, the smooth curves that they follow, and the frames that result."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np

from vil_tracker.data.augment import Photometry, add_noise, jpeg, motion_kernel
from vil_tracker.data.synthetic.sprites import Joint, Pose, Sprite, bend, blend, bounds, fold, place, warp, warp_sprite


@dataclass
class MovingSprite:
    """One thing and its script, a row per frame.

    Attributes:
        sprite: its picture.
        xy: (N, 2) centre of its bounding box in frame pixels, before the camera's shake.
        size: (N,) √(w·h) of its bounding box in frame pixels.
        angle, stretch: (N,), as in :class:`Pose`.
        flip: (N,) bool, mirrored left to right.
        grid: bending as in :func:`bend`, swung by ``phase`` (N,); None bends nothing.
        joints: where it folds, by ``swing`` (N, joints) radians.
    """

    sprite: Sprite
    xy: np.ndarray
    size: np.ndarray
    angle: np.ndarray
    stretch: np.ndarray
    flip: np.ndarray
    grid: np.ndarray | None = None
    phase: np.ndarray = field(default_factory=lambda: np.zeros(0))
    joints: tuple[Joint, ...] = ()
    swing: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))

    def at(self, frame: int, shake: np.ndarray) -> tuple[Sprite, np.ndarray]:
        """The sprite as bent in this frame and its 2×3 placement, moved by the camera's shake (2,)."""
        sprite = self.sprite
        if self.grid is not None:
            sprite = bend(sprite, self.grid * self.phase[frame])
        if self.joints:
            sprite = fold(sprite, self.joints, self.swing[frame].tolist())
        pose = Pose(float(self.angle[frame]), float(self.stretch[frame]), 0.0, bool(self.flip[frame])).linear()
        x, y = self.xy[frame] + shake
        return sprite, place(sprite.hull, pose, (float(x), float(y)), float(self.size[frame]))


def draw(
    canvas: np.ndarray, mover: MovingSprite, index: int, shake: np.ndarray
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


def half_extent(mover: MovingSprite, frames: slice) -> np.ndarray:
    """Half of the bounding box's sides (K, 2) in the given frames; bending may add a little, so it is rounded up."""
    if mover.joints:  # folding may turn any side into any other
        return np.repeat(0.85 * mover.size[frames, None], 2, axis=1)
    result = []
    for i in range(*frames.indices(len(mover.xy))):
        pose = Pose(float(mover.angle[i]), float(mover.stretch[i]), 0.0, bool(mover.flip[i])).linear()
        extent = np.ptp(mover.sprite.hull @ pose.T, axis=0)
        result.append(extent / math.sqrt(float(extent.prod())) * mover.size[i] * 0.55)
    return np.array(result)


def draw_joints(rng: np.random.Generator, n: int, pose: float) -> tuple[tuple[Joint, ...], np.ndarray]:
    """One to three joints of a thing that folds as people and animals do, and their angles (n, joints)."""
    count = int(rng.integers(1, 4))
    joints = []
    for _ in range(count):
        pivot = rng.uniform(0.25, 0.75, 2)
        # Away from the middle: the smaller part turns, and the body stays.
        outwards = math.atan2(pivot[1] - 0.5, pivot[0] - 0.5) + rng.normal(0.0, 0.5)
        joints.append(Joint((float(pivot[0]), float(pivot[1])), outwards, float(rng.uniform(0.08, 0.3))))
    swing = wander(rng, n, float(rng.uniform(6, 25)), count) * rng.uniform(0.2, 0.6) * pose
    return tuple(joints), np.clip(swing, -1.1, 1.1)


def turned_sideways(rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
    """A flat stand-in for turning about the upright axis.

    Returns:
        The factor (n,) on the width, from 1 where the thing is seen from the side to its thickness where it is seen
        from its end, and whether (n,) bool its other side is seen.
    """
    thickness = rng.uniform(0.3, 0.7)
    heading = rng.uniform(-0.3, 0.3) + np.cumsum(np.full(n, rng.choice((-1, 1)) * rng.uniform(0.01, 0.06)))
    heading += 0.5 * wander(rng, n, 20, 1)[:, 0]
    return np.hypot(np.cos(heading), thickness * np.sin(heading)), np.cos(heading) < 0


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


@dataclass
class Scene:
    """The whole script of a clip."""

    width: int
    height: int
    photo: np.ndarray
    camera: np.ndarray  # (N, 2, 3) photo to frame
    shake: np.ndarray  # (N, 2)
    target: MovingSprite
    behind: list[MovingSprite]
    before: list[MovingSprite]
    looks: list[Photometry]
    noise: float
    quality: int | None
    shutter: float

    def render(self, index: int, rng: np.random.Generator | None) -> tuple[np.ndarray, np.ndarray, float]:
        """Frame ``index``: picture, the target's box xywh cut at the frame's edge, its visible share.

        Without a generator the picture lacks noise; box and share are the same.
        """
        canvas = warp(self.photo, self.camera[index], (self.width, self.height))
        shake = self.shake[index]
        for mover in self.behind:
            draw(canvas, mover, index, shake)
        sprite, matrix = self.target.at(index, shake)
        warped = warp_sprite(canvas.shape, sprite, matrix)
        left = np.zeros(canvas.shape[:2], np.uint8)  # what remains to be seen of the target
        if warped is not None:
            region, rgba = warped
            velocity = self.target.xy[min(index + 1, len(self.target.xy) - 1)] - self.target.xy[index]
            rgba = smear(rgba, velocity * self.shutter)
            blend(canvas, region, rgba)
            left[region] = rgba[..., 3]
        for mover in self.before:
            touched = draw(canvas, mover, index, shake)
            if touched is not None:
                where, alpha = touched
                left[where] = cv2.multiply(left[where], cv2.bitwise_not(alpha), scale=1 / 255)
        whole = cv2.sumElems(sprite.rgba[..., 3])[0] * abs(np.linalg.det(matrix[:, :2]))
        seen = min(1.0, cv2.sumElems(left)[0] / max(whole, 1.0))
        low, high = np.clip(bounds(sprite.hull, matrix).reshape(2, 2), 0, (self.width, self.height))
        image = self.looks[index].apply(canvas)
        if rng is not None and self.noise > 0.5:
            image = add_noise(image, rng, self.noise)
        if self.quality is not None:
            image = jpeg(image, self.quality)
        return image, np.concatenate([low, high - low]), seen
