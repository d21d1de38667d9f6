"""Small photo pools of painted things, and how their boxes are measured."""

from __future__ import annotations

import cv2
import numpy as np

from vil_tracker.data.synthetic.photo_pool import PhotoPool


def texture(seed: int, height: int = 120, width: int = 160) -> np.ndarray:
    small = np.random.default_rng(seed).integers(0, 256, (8, 10, 3), np.uint8)
    return cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)


def disc(height: int = 120, width: int = 160, radius: int = 30) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    cv2.circle(mask, (width // 2, height // 2), radius, 1, -1)
    return mask > 0


def square_pool() -> PhotoPool:
    """A white square, as boxed object and as cut-out, on photos without any white."""
    square = np.full((200, 200, 3), 40, np.uint8)
    square[80:120, 70:130] = 255
    others = [np.full((200, 200, 3), value, np.uint8) for value in (30, 60)]
    return PhotoPool(
        [square, *others, np.dstack([square[76:124, 66:134], square[76:124, 66:134, 0] // 255 * 255])],
        photos=np.array([1, 2]),
        boxed=np.array([0]),
        boxes=np.array([[70.0, 80.0, 60.0, 40.0]]),
        cutouts=np.array([3]),
        groups=np.array([0]),
        origins=np.array([0, 1, 2, 0]),
    )


def bright_box(image: np.ndarray) -> np.ndarray:
    """Sub-pixel bounding box of what is bright: the extent of the half-bright contour along rows and columns."""
    grey = image.astype(float).mean(2)
    share = np.clip((grey - 60) / (grey.max() - 60), 0, 1)
    columns, rows = share.max(0), share.max(1)
    return np.array([first_half(columns), first_half(rows), *(len(v) - first_half(v[::-1]) for v in (columns, rows))])


def first_half(profile: np.ndarray) -> float:
    i = int(np.argmax(profile >= 0.5))
    before = profile[i - 1] if i else 0.0
    return i + 0.5 - (profile[i] - 0.5) / max(profile[i] - before, 1e-9)


# A turned cut-out's corner is a point that fills less than half of its last pixel, so the pixels end a little earlier.
# A bent one's corner may be a spike: what bending does to outlines has its own test below.
