"""The script of a synthetic clip, and the frames that it gives."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vil_tracker.data.augment import Photometry, add_noise, jpeg
from vil_tracker.data.synthetic.motion import MovingSprite, draw, smear
from vil_tracker.data.synthetic.sprites import blend, bounds, warp, warp_sprite


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
        seen = 0.0
        if warped is not None:
            region, rgba = warped
            velocity = self.target.xy[min(index + 1, len(self.target.xy) - 1)] - self.target.xy[index]
            rgba = smear(rgba, velocity * self.shutter)
            blend(canvas, region, rgba)
            left = np.zeros(canvas.shape[:2], np.uint8)
            left[region] = rgba[..., 3]
            for mover in self.before:
                touched = draw(canvas, mover, index, shake)
                if touched is not None:
                    where, alpha = touched
                    left[where] = cv2.multiply(left[where], cv2.bitwise_not(alpha), scale=1 / 255)
            whole = cv2.sumElems(sprite.rgba[..., 3])[0] * abs(np.linalg.det(matrix[:, :2]))
            seen = min(1.0, cv2.sumElems(left)[0] / max(whole, 1.0))
        else:
            for mover in self.before:
                draw(canvas, mover, index, shake)
        x1, y1, x2, y2 = bounds(sprite.hull, matrix)
        x1, x2 = np.clip((x1, x2), 0, self.width)
        y1, y2 = np.clip((y1, y2), 0, self.height)
        image = self.looks[index].apply(canvas)
        if rng is not None and self.noise > 0.5:
            image = add_noise(image, rng, self.noise)
        if self.quality is not None:
            image = jpeg(image, self.quality)
        return image, np.array([x1, y1, x2 - x1, y2 - y1]), seen
