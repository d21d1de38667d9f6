"""Choices from a photo pool: targets, distractors, occluders and backgrounds for synthetic samples."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np

from vil_tracker.data.synthetic.photo_pool import PhotoPool
from vil_tracker.data.synthetic.sprites import Pose, Sprite, apart, pseudo_sprite, recolour, warp

PhotoWithBox = tuple[np.ndarray, np.ndarray]

NOWHERE = -1  # the origin of nothing
_ATTEMPTS = 8
_APART = 22.0  # levels; two things whose colours differ by less are taken for one


class AssetSampler:
    """Random choices from a pool. Every method draws from the generator it is given and keeps nothing.

    Nothing that is to differ from a target is taken from its ``origin``, the photo or video that it was cut from: it
    could be the target itself, and no tracker can tell a thing from its own picture.
    """

    def __init__(self, pool: PhotoPool) -> None:
        self.pool = pool
        self._members = {int(g): np.flatnonzero(pool.groups == g) for g in np.unique(pool.groups)}
        areas = pool.boxes[:, 2] * pool.boxes[:, 3]
        photo_areas = np.array([math.prod(pool.images[i].shape[:2]) for i in pool.boxed])
        # A box that fills most of its photo leaves no context: its search crop would be almost all padding.
        self._roomy = np.flatnonzero(areas < 0.25 * photo_areas) if len(areas) else np.zeros(0, np.int64)

    def photo(self, rng: np.random.Generator, avoid: int = NOWHERE) -> np.ndarray:
        """Any photo; not of the origin ``avoid`` if there are others."""
        return self.pool.images[self._photo_index(rng, avoid)]

    def _photo_index(self, rng: np.random.Generator, avoid: int) -> int:
        photos = self.pool.photos
        for _ in range(_ATTEMPTS):
            index = int(photos[int(rng.integers(len(photos)))])
            if self.pool.origins[index] != avoid:
                break
        return index

    def _cutout(self, rng: np.random.Generator, numbers: np.ndarray, avoid: int) -> Sprite | None:
        """One of these cut-outs that is not of the origin ``avoid``; None if none is found."""
        for _ in range(_ATTEMPTS):
            number = int(numbers[int(rng.integers(len(numbers)))])
            if self.pool.origins[self.pool.cutouts[number]] != avoid:
                return self.pool.sprite(number)
        return None

    def salient_box(
        self, photo: np.ndarray, rng: np.random.Generator, low: float, high: float, aspect: float = 4.0
    ) -> np.ndarray:
        """A box xywh on something: the most textured, most different from its surroundings of a few random ones, of
        √(w·h) from ``low`` to ``high`` in units of the photo's shorter side; ``aspect`` is the largest ratio of its
        sides.
        """
        height, width = photo.shape[:2]
        shorter, best, best_score = min(height, width), None, -1.0
        for _ in range(5):
            size = shorter * math.exp(rng.uniform(math.log(low), math.log(high)))
            limit = math.log(aspect)
            stretch = min(max(rng.normal(0.0, 0.6), -limit), limit)
            w = min(max(size * math.exp(stretch / 2), 6.0), width - 2.0)
            h = min(max(size * math.exp(-stretch / 2), 6.0), height - 2.0)
            x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
            x0, y0, x1, y1 = int(x), int(y), int(x + w), int(y + h)
            mean, deviation = cv2.meanStdDev(photo[y0:y1, x0:x1])
            around = cv2.mean(
                photo[
                    max(0, y0 - (y1 - y0) // 2) : y1 + (y1 - y0) // 2, max(0, x0 - (x1 - x0) // 2) : x1 + (x1 - x0) // 2
                ]
            )
            score = float(deviation.sum() + np.abs(mean[:, 0] - around[:3]).sum())
            if score > best_score:
                best, best_score = np.array([x, y, w, h]), score
        assert best is not None
        return best

    def photo_pair(self, rng: np.random.Generator, mode: str, present: bool) -> tuple[PhotoWithBox, PhotoWithBox]:
        """Photo and box of template and search; the same ones for stills. Unrelated ones if not ``present``."""
        pool = self.pool
        if mode == "clip":
            clip = int(rng.integers(len(pool.clips)))
            i, j = (int(rng.integers(len(pool.clips[clip]))) for _ in range(2))
            indices, boxes = pool.clips[clip], pool.clip_boxes[clip]
            first, second = (pool.images[indices[i]], boxes[i]), (pool.images[indices[j]], boxes[j])
        elif mode == "boxed":
            numbers = self._roomy if len(self._roomy) and rng.random() < 0.85 else np.arange(len(pool.boxed))
            number = int(numbers[int(rng.integers(len(numbers)))])
            first = second = (pool.images[pool.boxed[number]], pool.boxes[number])
        else:
            photo = self.photo(rng)
            first = second = (photo, self.salient_box(photo, rng, 0.06, 0.4))
        if not present:
            other = self.photo(rng)
            second = (other, self.salient_box(other, rng, 0.1, 0.3))
        return first, second

    def target(self, rng: np.random.Generator, mode: str) -> tuple[Sprite, int]:
        """A target that can be cut out, and its class (-1: none)."""
        if mode == "cutout":
            number = int(rng.integers(len(self.pool.cutouts)))
            return self.pool.sprite(number), int(self.pool.groups[number])
        return self.part(rng), -1

    def part(self, rng: np.random.Generator, shape: bool = True, avoid: int = NOWHERE) -> Sprite:
        """A part of some photo, cut to a random shape (or left a rectangle)."""
        index = self._photo_index(rng, avoid)
        photo = self.pool.images[index]
        sprite = pseudo_sprite(photo, self.salient_box(photo, rng, 0.15, 0.6, aspect=3.0), rng, shape)
        return replace(sprite, origin=int(self.pool.origins[index]))

    def distractor(self, rng: np.random.Generator, target: Sprite | None, group: int) -> Sprite:
        """Something to confuse with the target, but not the target itself: of its class, a copy in clearly other
        colours, or anything.
        """
        choice = rng.random()
        avoid = NOWHERE if target is None else target.origin
        members = self._members.get(group)
        found = None
        if members is not None and choice < 0.45:
            found = self._cutout(rng, members, avoid)
        elif target is not None and choice < 0.65:
            changed = recolour(target, rng, 1.0)
            found = changed if apart(changed, target) >= _APART else None
        if found is None and len(self.pool.cutouts) and choice < 0.85:
            found = self._cutout(rng, np.arange(len(self.pool.cutouts)), avoid)
        return self.part(rng, avoid=avoid) if found is None else found

    def occluder(self, rng: np.random.Generator) -> Sprite:
        """Something to stand before the target."""
        if len(self.pool.cutouts) and rng.random() < 0.3:
            return self.pool.sprite(int(rng.integers(len(self.pool.cutouts))))
        return self.part(rng, shape=bool(rng.random() < 0.6))

    def background(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """An n × n view of some photo."""
        photo = self.photo(rng)
        return self._window(rng, photo, n, min(photo.shape[:2]) * rng.uniform(0.5, 1.0), 0.0, False)

    def background_pair(
        self, rng: np.random.Generator, sizes: tuple[int, int], ratio: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Backgrounds of template and search, of these sides in pixels: mostly two places in one photo, else two
        photos. The template's part of the scene is smaller by ``ratio`` than the search crop's.
        """
        first = self.photo(rng)
        second = first if rng.random() < 0.6 else self.photo(rng)
        share = rng.uniform(0.45, 1.0)
        angle, flip = rng.normal(0.0, 0.06), bool(rng.random() < 0.5)
        template = self._window(rng, first, sizes[0], min(first.shape[:2]) * share * ratio, angle, flip)
        search = self._window(rng, second, sizes[1], min(second.shape[:2]) * share, rng.normal(angle, 0.06), flip)
        return template, search

    def _window(
        self, rng: np.random.Generator, photo: np.ndarray, n: int, side: float, angle: float, flip: bool
    ) -> np.ndarray:
        height, width = photo.shape[:2]
        cx = rng.uniform(side / 2, max(width - side / 2, side / 2 + 1e-6))
        cy = rng.uniform(side / 2, max(height - side / 2, side / 2 + 1e-6))
        linear = Pose(angle, 0.0, 0.0, flip).linear() * (n / side)
        offset = np.array([n / 2, n / 2]) - linear @ np.array([cx, cy])
        return warp(photo, np.column_stack([linear, offset]), (n, n))
