"""Sprites: cut-outs with a soft edge that are bent, turned, scaled and pasted straight into a crop.

Coordinates are continuous (pixel i covers [i, i + 1)); a placement is a 2×3 affine matrix from sprite to canvas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np


@dataclass(frozen=True)
class Sprite:
    """A cut-out.

    Attributes:
        rgba: (h, w, 4) uint8.
        hull: (K, 2) float64, corners of the convex hull of the opaque part, in sprite pixels.
        origin: number of the photo or video that it was cut from; -1 if there is none.
    """

    rgba: np.ndarray
    hull: np.ndarray
    origin: int = -1


@dataclass(frozen=True)
class Pose:
    """How a sprite (or a photo) lies in a view, apart from position and size.

    Attributes:
        angle: radians, anticlockwise on screen is negative (y points down).
        stretch: width grows by exp(stretch / 2), height shrinks by as much.
        shear: x moves by ``shear`` per pixel of y.
        flip: mirrored left to right.
    """

    angle: float = 0.0
    stretch: float = 0.0
    shear: float = 0.0
    flip: bool = False

    def linear(self) -> np.ndarray:
        """The 2×2 matrix, of determinant ±1."""
        c, s = math.cos(self.angle), math.sin(self.angle)
        e = math.exp(self.stretch / 2)
        a = -e if self.flip else e
        # rotation · shear · diag(±e, 1/e)
        return np.array([[c * a, (c * self.shear - s) / e], [s * a, (s * self.shear + c) / e]])


def outline(alpha: np.ndarray) -> np.ndarray:
    """Convex hull (K, 2) of the pixels that are at least half opaque, in continuous coordinates."""
    contours, _ = cv2.findContours((alpha > 127).view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    if not contours:
        h, w = alpha.shape
        return np.array([[0.0, 0.0], [w, 0.0], [w, h], [0.0, h]])
    points = cv2.convexHull(np.concatenate(contours))[:, 0].astype(np.float64)
    # Contour points are pixel centres; the pixel's square reaches half a pixel further on every side.
    corners = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    return (points[:, None] + corners).reshape(-1, 2)


def ellipse_outline(box: np.ndarray, points: int = 24) -> np.ndarray:
    """Ellipse (points, 2) inscribed in an xywh box: a better guess of an object's outline than the box's corners,
    whose bounding box would swell when turned.
    """
    t = np.arange(points) * (2 * math.pi / points)
    x, y, w, h = (float(v) for v in box)
    return np.stack([x + w / 2 + w / 2 * np.cos(t), y + h / 2 + h / 2 * np.sin(t)], axis=1)


def bounds(points: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Bounding box xyxy (4,) of points (K, 2) mapped by a 2×3 matrix."""
    mapped = points @ matrix[:, :2].T + matrix[:, 2]
    return np.concatenate([mapped.min(0), mapped.max(0)])


def place(points: np.ndarray, linear: np.ndarray, centre: tuple[float, float], size: float) -> np.ndarray:
    """The 2×3 matrix that gives the mapped points' bounding box this centre and this √(w·h)."""
    mapped = points @ linear.T
    low, high = mapped.min(0), mapped.max(0)
    w, h = high - low
    scale = size / math.sqrt(max(float(w * h), 1e-6))
    matrix = np.empty((2, 3))
    matrix[:, :2] = linear * scale
    matrix[:, 2] = np.asarray(centre) - (low + high) / 2 * scale
    return matrix


def warp(
    image: np.ndarray,
    matrix: np.ndarray,
    size: tuple[int, int],
    border: int = cv2.BORDER_REFLECT_101,
    fill: tuple[float, ...] = (0.0, 0.0, 0.0, 0.0),
) -> np.ndarray:
    """Resample an image by a 2×3 matrix in continuous coordinates to (width, height) = ``size``.

    Where the image shrinks, whole pixels are averaged first: bilinear taps alone would alias.
    """
    scale = math.sqrt(abs(matrix[0, 0] * matrix[1, 1] - matrix[0, 1] * matrix[1, 0]))
    a = matrix
    if scale < 0.6:
        h, w = image.shape[:2]
        k = max(2, int(1 / scale + 0.3))
        columns, rows = max(1, w // k), max(1, h // k)
        image = cv2.resize(image, (columns, rows), interpolation=cv2.INTER_AREA)
        a = matrix.copy()
        a[:, 0] *= w / columns
        a[:, 1] *= h / rows
    # OpenCV's pixel i has its centre at i, so both sides shift by half a pixel.
    shift = a[:, 2] + 0.5 * (a[:, 0] + a[:, 1]) - 0.5
    return cv2.warpAffine(
        image, np.column_stack([a[:, :2], shift]), size, flags=cv2.INTER_LINEAR, borderMode=border, borderValue=fill
    )


def warp_sprite(
    shape: tuple[int, ...], sprite: Sprite, matrix: np.ndarray
) -> tuple[tuple[slice, slice], np.ndarray] | None:
    """Resample a sprite for a canvas of ``shape`` (H, W): the touched region and its (h, w, 4) RGBA pixels."""
    x1, y1, x2, y2 = bounds(sprite.hull, matrix)
    x1, y1 = max(0, int(x1) - 2), max(0, int(y1) - 2)
    x2, y2 = min(shape[1], int(x2) + 3), min(shape[0], int(y2) + 3)
    if x2 - x1 < 1 or y2 - y1 < 1:
        return None
    local = matrix.copy()
    local[:, 2] -= (x1, y1)
    # A border of the sprite's own colours under zero alpha is not needed: transparent black only darkens what has
    # no weight. Objects cut off by their photo's edge get a one-pixel ramp this way.
    rgba = warp(sprite.rgba, local, (x2 - x1, y2 - y1), border=cv2.BORDER_CONSTANT)
    return (slice(y1, y2), slice(x1, x2)), rgba


def blend(canvas: np.ndarray, region: tuple[slice, slice], rgba: np.ndarray) -> None:
    """Blend RGBA pixels over a region of the canvas, in place."""
    alpha = cv2.cvtColor(rgba[..., 3], cv2.COLOR_GRAY2RGB)
    under = canvas[region]
    over = cv2.multiply(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), alpha, scale=1 / 255)
    canvas[region] = cv2.add(over, cv2.multiply(under, cv2.bitwise_not(alpha), scale=1 / 255))


def bend(sprite: Sprite, grid: np.ndarray) -> Sprite:
    """Non-rigid change of shape by displacements ``grid`` (K, K, 2), x and y in units of the sprite's width and height,
    on a coarse grid over it. The bent sprite has a margin as wide as the largest displacement on every side.
    """
    h, w = sprite.rgba.shape[:2]
    # What moves outwards needs room, or it would be cut off straight at the sprite's edge. Cubics overshoot a little.
    reach_x, reach_y = 1.25 * np.abs(grid).max((0, 1))
    left, top = math.ceil(reach_x * w) + 1, math.ceil(reach_y * h) + 1
    width, height = w + 2 * left, h + 2 * top
    field = cv2.resize(grid.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    map_x = field[..., 0] * w + np.arange(-left, w + left, dtype=np.float32)
    map_y = field[..., 1] * h + np.arange(-top, h + top, dtype=np.float32)[:, None]
    rgba = cv2.remap(sprite.rgba, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return replace(sprite, rgba=rgba, hull=outline(rgba[..., 3]))


@dataclass(frozen=True)
class Joint:
    """A place at which a sprite folds, as a limb does.

    Attributes:
        pivot: (x, y) in units of the sprite's width and height.
        direction: angle in radians of the way from the pivot into the part that turns (y points down).
        soft: width of the fold, in units of √(width · height); what lies further in that direction turns fully.
    """

    pivot: tuple[float, float]
    direction: float
    soft: float


def fold(sprite: Sprite, joints: Sequence[Joint], angles: Sequence[float]) -> Sprite:
    """Turn the part of a sprite beyond each joint by an angle (radians), with a smooth passage at the joint.

    The picture is looked up backwards: a point beyond the joint takes its colour from where it came from. So of parts
    that come to overlap one is seen, and none is torn off. The folded sprite has a margin that holds every turned part.
    """
    h, w = sprite.rgba.shape[:2]
    scale = math.sqrt(w * h)
    pivots = [(joint.pivot[0] * w, joint.pivot[1] * h) for joint in joints]
    corners = np.array([[0.0, 0.0], [w, 0.0], [w, h], [0.0, h]])
    moved = [
        2 * abs(math.sin(angle / 2)) * np.linalg.norm(corners - pivot, axis=1).max()
        for pivot, angle in zip(pivots, angles, strict=True)
    ]
    margin = math.ceil(min(sum(moved), scale)) + 1
    width, height = w + 2 * margin, h + 2 * margin
    # The field is smooth: it is worked out on every fourth pixel.
    columns, rows = -(-width // 4), -(-height // 4)
    x, y = np.meshgrid(
        (np.arange(columns, dtype=np.float32) + 0.5) * (width / columns) - margin - 0.5,
        (np.arange(rows, dtype=np.float32) + 0.5) * (height / rows) - margin - 0.5,
    )
    for joint, (px, py), angle in zip(joints, pivots, angles, strict=True):
        # The limb's own direction turns along, or a limb far out of line would be cut off.
        along = joint.direction + angle / 2
        beyond = np.clip((np.cos(along) * (x - px) + np.sin(along) * (y - py)) / (joint.soft * scale), 0, 1)
        turn = -angle * beyond * beyond * (3 - 2 * beyond)
        c, s = np.cos(turn), np.sin(turn)
        x, y = px + c * (x - px) - s * (y - py), py + s * (x - px) + c * (y - py)
    map_x, map_y = (cv2.resize(field.astype(np.float32), (width, height)) for field in (x, y))
    rgba = cv2.remap(sprite.rgba, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    return replace(sprite, rgba=rgba, hull=outline(rgba[..., 3]))


def recolour(sprite: Sprite, rng: np.random.Generator, strength: float) -> Sprite:
    """The same shape in other colours: hue turned by up to half a circle × strength, other lightness."""
    rgb = cv2.cvtColor(sprite.rgba, cv2.COLOR_RGBA2RGB)
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
    hue = int(rng.uniform(0.15, 1.0) * strength * 90) * (1 if rng.random() < 0.5 else -1)
    levels = np.arange(256)
    tables = np.stack(
        [
            (levels + hue) % 180,
            np.clip(levels * math.exp(rng.normal(0, 0.4)), 0, 255),
            np.clip(levels * math.exp(rng.normal(0, 0.35)), 0, 255),
        ],
        axis=-1,
    ).astype(np.uint8)
    changed = cv2.cvtColor(cv2.LUT(hsv, tables[None]), cv2.COLOR_HSV2RGB)
    return replace(sprite, rgba=np.dstack([changed, sprite.rgba[..., 3]]))


def apart(one: Sprite, other: Sprite) -> float:
    """How far the colours of two sprites of one shape lie apart: mean absolute difference of opaque pixels (every
    third row and column), in levels (0 to 255).
    """
    a, b = one.rgba[::3, ::3], other.rgba[::3, ::3]
    solid = a[..., 3] > 127
    return float(np.abs(a[..., :3][solid].astype(int) - b[..., :3][solid]).mean()) if solid.any() else 0.0


def random_shape(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Alpha mask (height, width) uint8 of a random shape: ellipse, rounded box, polygon, blob or several parts."""
    alpha = np.zeros((height, width), np.uint8)
    kind = int(rng.integers(5))
    cx, cy = width / 2, height / 2
    if kind == 0:
        cv2.ellipse(alpha, ((cx, cy), (width - 4, height - 4), 0), 255, -1)
    elif kind == 1:
        radius = int(rng.uniform(0.1, 0.4) * min(width, height))
        cv2.rectangle(alpha, (2 + radius, 2), (width - 3 - radius, height - 3), 255, -1)
        cv2.rectangle(alpha, (2, 2 + radius), (width - 3, height - 3 - radius), 255, -1)
        for x in (2 + radius, width - 3 - radius):
            for y in (2 + radius, height - 3 - radius):
                cv2.circle(alpha, (x, y), radius, 255, -1)
    elif kind in (2, 3):
        # Star-shaped around the centre; with few corners a polygon, with many a lumpy blob.
        corners = int(rng.integers(4, 9)) if kind == 2 else 24
        angles = (np.arange(corners) + rng.uniform(-0.3, 0.3, corners)) * (2 * math.pi / corners)
        radii = rng.uniform(0.55, 1.0, corners)
        if kind == 3:
            waves = [rng.uniform(0, 0.12) * np.cos(k * angles + rng.uniform(0, 6.3)) for k in (2, 3, 4, 5)]
            radii = 0.7 + np.sum(waves, axis=0)
        points = np.stack([cx + (cx - 3) * radii * np.cos(angles), cy + (cy - 3) * radii * np.sin(angles)], 1)
        cv2.fillPoly(alpha, [points.round().astype(np.int32)], 255)
    else:
        cv2.ellipse(alpha, ((cx, cy), (width * 0.5, height * 0.5), 0), 255, -1)
        for _ in range(int(rng.integers(2, 5))):
            axes = (rng.uniform(0.2, 0.6) * width, rng.uniform(0.2, 0.6) * height)
            centre = (rng.uniform(axes[0] / 2, width - axes[0] / 2), rng.uniform(axes[1] / 2, height - axes[1] / 2))
            cv2.ellipse(alpha, (centre, axes, rng.uniform(0, 180)), 255, -1)
    return cv2.GaussianBlur(alpha, (5, 5), 0)


def pseudo_sprite(photo: np.ndarray, box: np.ndarray, rng: np.random.Generator, shape: bool = True) -> Sprite:
    """A part of a photo as if it were an object: box xywh of the photo, cut to a random solid shape (or left a box)."""
    x, y, w, h = (int(v) for v in box)
    part = photo[y : y + h, x : x + w]
    limit = 128
    if max(part.shape[:2]) > limit:
        scale = limit / max(part.shape[:2])
        part = cv2.resize(part, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    height, width = part.shape[:2]
    alpha = random_shape(rng, height, width) if shape else np.full((height, width), 255, np.uint8)
    return Sprite(np.dstack([part, alpha]), outline(alpha))
