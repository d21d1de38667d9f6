"""A crop in the making: what is pasted on it, what remains to be seen of the target, where the frame ends."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import cv2
import numpy as np

from vil_tracker.data.augment import Photometry
from vil_tracker.data.synthetic.sprites import Pose, Sprite, blend, bounds, ellipse_outline, place, warp_sprite


@dataclass
class CompositeCrop:
    """A crop in the making: canvas (n, n, 3) uint8, the target's box (xyxy) and alpha on it, the frame's rectangle."""

    canvas: np.ndarray
    box: np.ndarray
    alpha: np.ndarray | None = None
    frame: np.ndarray | None = None


def paste(view: CompositeCrop, sprite: Sprite, matrix: np.ndarray) -> None:
    """Paste the target and record its box and alpha."""
    view.box = bounds(sprite.hull, matrix)
    warped = warp_sprite(view.canvas.shape[:2], sprite, matrix)
    if warped is not None:
        region, rgba = warped
        blend(view.canvas, region, rgba)
        view.alpha = np.zeros(view.canvas.shape[:2], np.uint8)
        view.alpha[region] = rgba[..., 3]


def paste_occluder(view: CompositeCrop, sprite: Sprite, matrix: np.ndarray, allowed: float) -> None:
    """Paste something over the view unless it hides more than the ``allowed`` share of the target."""
    warped = warp_sprite(view.canvas.shape[:2], sprite, matrix)
    if warped is None:
        return
    region, rgba = warped
    if view.box[2] > view.box[0]:
        if view.alpha is None:  # a target inside a photo has no mask: its ellipse stands for it
            view.alpha = np.zeros(view.canvas.shape[:2], np.uint8)
            points = ellipse_outline(np.concatenate([view.box[:2], view.box[2:] - view.box[:2]]))
            cv2.fillConvexPoly(view.alpha, points.round().astype(np.int32), 255)
        total = cv2.sumElems(view.alpha)[0]
        hidden = cv2.sumElems(cv2.multiply(view.alpha[region], rgba[..., 3], scale=1 / 255))[0]
        if hidden > allowed * total:
            return
        view.alpha[region] = cv2.multiply(view.alpha[region], cv2.bitwise_not(rgba[..., 3]), scale=1 / 255)
    blend(view.canvas, region, rgba)


def occlude(rng: np.random.Generator, view: CompositeCrop, sprite: Sprite) -> None:
    """Cover a part of the target, from one side, by something."""
    x1, y1, x2, y2 = view.box
    w, h = x2 - x1, y2 - y1
    angle, distance = rng.uniform(0, 2 * math.pi), rng.uniform(0.35, 0.75)
    centre = ((x1 + x2) / 2 + math.cos(angle) * w * distance, (y1 + y2) / 2 + math.sin(angle) * h * distance)
    pose = Pose(rng.normal(0, 0.3), rng.normal(0, 0.4)).linear()
    size = math.sqrt(w * h) * rng.uniform(0.45, 1.1)
    paste_occluder(view, sprite, place(sprite.hull, pose, centre, size), 0.55)


def relight(sprite: Sprite, look: Photometry) -> Sprite:
    """The sprite in another light."""
    rgb = look.apply(cv2.cvtColor(sprite.rgba, cv2.COLOR_RGBA2RGB))
    return replace(sprite, rgba=np.dstack([rgb, sprite.rgba[..., 3]]))


def match_background(sprite: Sprite, background: np.ndarray, amount: float) -> Sprite:
    """Move the sprite's mean colour towards the background's by this share of the difference."""
    own = np.array(cv2.mean(sprite.rgba, (sprite.rgba[..., 3] > 127).view(np.uint8))[:3])
    shift = amount * (np.array(cv2.mean(background)[:3]) - own)
    tables = np.clip(np.arange(256)[:, None] + np.array([*shift, 0.0]), 0, 255).astype(np.uint8)[None]
    return replace(sprite, rgba=cv2.LUT(sprite.rgba, tables))


def random_frame(rng: np.random.Generator, box: np.ndarray, n: int, cut: float) -> np.ndarray:
    """A frame's rectangle (xyxy) in an n × n canvas: one or two of its edges, or all four around a large target. At
    most the share ``cut`` of the target's box xyxy falls outside across each edge.
    """
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1
    if rng.random() < 0.35:
        left, right = rng.exponential(0.5, 2) * w
        top, bottom = rng.exponential(0.35, 2) * h
        return np.array([x1 - left, y1 - top, x2 + right, y2 + bottom])
    frame = np.array([-n, -n, 2 * n, 2 * n], np.float64)
    limits = np.array([x1 + cut * w, y1 + cut * h, x2 - cut * w, y2 - cut * h])
    near = np.array([x1, y1, n - x2, n - y2])
    first = int(np.argmin(near)) if rng.random() < 0.7 else int(rng.integers(4))
    edges = [first] + ([(first + int(rng.choice((1, 3)))) % 4] if rng.random() < 0.3 else [])
    for edge in edges:
        if edge < 2:
            frame[edge] = min(rng.uniform(0.02, 0.45) * n, limits[edge])
        else:
            frame[edge] = max(n - rng.uniform(0.02, 0.45) * n, limits[edge])
    return frame
