"""Patches to train the verifier on: one object seen twice, and something else, all composed from photos.

The second time the thing is bent, folded, turned, lit and hidden in part, as between distant frames of a video, and the
box around it is more or less wrong.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import IterableDataset

from vil_tracker.boxes import convert, iou
from vil_tracker.data.augment import Photometry, degrade
from vil_tracker.data.synthetic.assets import AssetSampler
from vil_tracker.data.synthetic.compose import CompositeCrop, match_background, occlude, paste, paste_occluder, relight
from vil_tracker.data.synthetic.motion import draw_joints, turned_sideways
from vil_tracker.data.synthetic.photo_pool import PhotoPool, part_of
from vil_tracker.data.synthetic.sprites import Pose, Sprite, bend, fold, place
from vil_tracker.models.verifier import crop_patch

_ROOM = 3.2  # side of the canvas in units of the target's √(w·h)
_SIZES = (12.0, 64.0)  # of the target's √(w·h) in pixels
_GREY = 0.06


class PatchSample(NamedTuple):
    """One sample: patches (PATCH_SIZE, PATCH_SIZE, 3) uint8.

    Attributes:
        first: the target as the user boxes it.
        seen: the same thing later, in a box that is more or less wrong.
        other: something else: a thing of its kind, in its place or beside it, a copy in other colours, or background.
        overlap: of the box of ``seen`` with the target's, in [0, 1].
    """

    first: np.ndarray
    seen: np.ndarray
    other: np.ndarray
    overlap: float


class SyntheticPatches(IterableDataset):
    """Batches without end of samples, other ones in every loader process, which derive from ``seed`` and are composed
    of what is held ``aside`` of the pool, or of the rest of it.
    """

    def __init__(self, pool: PhotoPool, batch: int, seed: int, *, aside: bool = False) -> None:
        self.pool, self.batch, self.seed, self.aside = pool, batch, seed, aside

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Patches (batch, 3, PATCH_SIZE, PATCH_SIZE, 3) uint8, first, seen, other; and overlaps (batch,)."""
        info = torch.utils.data.get_worker_info()
        rng = np.random.default_rng((self.seed, 0 if info is None else info.id))
        material = AssetSampler(part_of(self.pool, aside=self.aside))
        while True:
            samples = [sample_patches(material, rng) for _ in range(self.batch)]
            patches = np.stack([np.stack(sample[:3]) for sample in samples])
            overlaps = torch.tensor([sample.overlap for sample in samples], dtype=torch.float32)
            yield torch.from_numpy(patches), overlaps


def sample_patches(material: AssetSampler, rng: np.random.Generator) -> PatchSample:
    """Compose one sample; everything random comes from ``rng``."""
    mode = "cutout" if len(material.pool.cutouts) and rng.random() < 0.75 else "pseudo"
    target, group = material.target(rng, mode)
    if rng.random() < 0.3:
        target = relight(target, Photometry().changed(rng, 0.8))
    other = material.distractor(rng, target, group)
    flip = bool(rng.random() < 0.5)
    pose = Pose(rng.normal(0.0, 0.1), rng.normal(0.0, 0.12), 0.0, flip)
    light = Photometry().changed(rng, 0.6)
    if rng.random() < _GREY:
        light = light.grey()

    size = math.exp(rng.uniform(math.log(_SIZES[0]), math.log(_SIZES[1])))
    later = size * math.exp(rng.normal(0.0, 0.3))
    sides = max(24, round(_ROOM * size)), max(24, round(_ROOM * later))
    first_scene, seen_scene = material.background_pair(rng, sides, 1.0)

    view = _seen(material, rng, target, pose, first_scene, size, 0.3, group, beside=0.15)
    first = _patch(rng, view, light, 0.4, _near(rng, view.box, 0.03))
    # Each sample has a difficulty of its own.
    difficulty = rng.uniform(0.3, 1.6)
    view = _seen(material, rng, target, pose, seen_scene.copy(), later, difficulty, group, beside=0.5)
    box = _near(rng, view.box, 0.06 if rng.random() < 0.4 else 0.3)
    seen = _patch(rng, view, light.changed(rng, 0.5 * difficulty), difficulty, box)
    overlap = float(iou(convert(box, "xyxy", "xywh"), convert(view.box, "xyxy", "xywh")))

    if rng.random() < 0.75:
        turned = Pose(rng.normal(0.0, 0.2), rng.normal(0.0, 0.2), 0.0, bool(rng.random() < 0.5))
        view = _seen(material, rng, other, turned, seen_scene, later, difficulty, -1, beside=0.2)
        box = _near(rng, view.box, 0.2)
    else:  # what stands there without the target
        view = CompositeCrop(seen_scene, np.zeros(4))
        extent = later * np.exp(rng.normal(0.0, 0.2, 2))
        centre = sides[1] / 2 + rng.uniform(-0.4, 0.4, 2) * sides[1]
        box = np.concatenate([centre - extent / 2, centre + extent / 2])
    different = _patch(rng, view, light.changed(rng, 0.5 * difficulty), difficulty, box)
    return PatchSample(first, seen, different, overlap)


def _seen(
    material: AssetSampler,
    rng: np.random.Generator,
    sprite: Sprite,
    base: Pose,
    scene: np.ndarray,
    size: float,
    difficulty: float,
    group: int,
    beside: float,
) -> CompositeCrop:
    """A thing in a scene, changed the more the larger the difficulty; with probability ``beside`` next to another."""
    strength = min(difficulty, 1.5)
    seen = sprite
    if rng.random() < 0.4:
        seen = match_background(seen, scene, rng.uniform(0.1, 0.5) * min(strength, 1.0))
    linear = Pose(
        base.angle + rng.normal(0.0, 0.15 * strength),
        base.stretch + rng.normal(0.0, 0.12 * strength),
        rng.normal(0.0, 0.05 * strength),
        base.flip,
    ).linear()
    if rng.random() < 0.35 * strength:
        width, other_side = (values[-1] for values in turned_sideways(rng, int(rng.integers(1, 60))))
        linear = linear @ np.diag([-width if other_side else width, 1.0])
    if rng.random() < 0.4 * strength:
        joints, swing = draw_joints(rng, 1, strength)
        seen = fold(seen, joints, swing[0].tolist())
    elif rng.random() < 0.6 * strength:
        seen = bend(seen, rng.normal(0.0, rng.uniform(0.01, 0.05) * strength, (4, 4, 2)))
    n = scene.shape[0]
    view = CompositeCrop(scene, np.zeros(4))
    near = rng.random() < beside
    behind = near and rng.random() < 0.5
    if behind:
        _beside(material, rng, view, sprite, group, size)
    paste(view, seen, place(seen.hull, linear, tuple(n / 2 + rng.normal(0.0, 0.05 * n, 2)), size))
    if near and not behind:
        _beside(material, rng, view, sprite, group, size)
    if rng.random() < 0.25 * strength:
        occlude(rng, view, material.occluder(rng))
    return view


def _beside(
    material: AssetSampler, rng: np.random.Generator, view: CompositeCrop, target: Sprite, group: int, size: float
) -> None:
    """Put something else next to the middle, where the target stands or will stand."""
    sprite = material.distractor(rng, target, group)
    angle, distance = rng.uniform(0, 2 * math.pi), size * rng.uniform(0.7, 1.4)
    centre = view.canvas.shape[0] / 2 + distance * np.array([math.cos(angle), math.sin(angle)])
    pose = Pose(rng.normal(0, 0.2), rng.normal(0, 0.2), 0.0, bool(rng.random() < 0.5)).linear()
    paste_occluder(view, sprite, place(sprite.hull, pose, tuple(centre), size * math.exp(rng.normal(-0.05, 0.25))), 0.3)


def _near(rng: np.random.Generator, box: np.ndarray, error: float) -> np.ndarray:
    """A box xyxy whose centre and sides are wrong by about this share of its sides."""
    sides = np.maximum(box[2:] - box[:2], 2.0)
    centre = (box[:2] + box[2:]) / 2 + rng.normal(0.0, error, 2) * sides
    half = sides / 2 * np.exp(np.clip(rng.normal(0.0, 1.2 * error) + rng.normal(0.0, 0.7 * error, 2), -1.2, 1.2))
    return np.concatenate([centre - half, centre + half])


def _patch(
    rng: np.random.Generator, view: CompositeCrop, light: Photometry, difficulty: float, box: np.ndarray
) -> np.ndarray:
    return crop_patch(degrade(light.apply(view.canvas), rng, 0.7 * difficulty), box)
