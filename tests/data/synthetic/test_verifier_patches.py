"""Looks for the verifier, and that nothing else in a scene is the target itself."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import cv2
import numpy as np
import pytest

from vil_tracker.data.synthetic.assets import AssetSampler
from vil_tracker.data.synthetic.photo_pool import PhotoPool, part_of, pool_from_arrays
from vil_tracker.data.synthetic.sprites import apart
from vil_tracker.data.synthetic.verifier import SyntheticPatches, sample_patches
from vil_tracker.models.verifier import PATCH_SIZE

COLOURS = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (200, 200, 40), (200, 40, 200))


def coloured_pool(videos: int = 5, photos: int = 3) -> PhotoPool:
    """Videos of a few photos each, every one with a disc of the video's own colour on grey noise."""
    rng = np.random.default_rng(0)
    images, objects, origins = [], [], []
    for video in range(videos):
        for _ in range(photos):
            image = rng.integers(90, 120, (120, 160, 3), dtype=np.uint8)
            mask = np.zeros((120, 160), np.uint8)
            cv2.circle(mask, (80, 60), 30, 1, -1)
            image[mask > 0] = COLOURS[video]
            objects.append((len(images), np.array([50.0, 30.0, 60.0, 60.0]), mask > 0, "object"))
            images.append(image)
            origins.append(video)
    return pool_from_arrays(images, objects, origins=origins)


def test_a_distractor_is_never_the_target() -> None:
    """Whatever is drawn beside a target, it is not from the target's video, or it is recoloured beyond mistaking."""
    material = AssetSampler(coloured_pool())
    copies = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        target, group = material.target(rng, "cutout")
        other = material.distractor(rng, target, group)
        if other.origin == target.origin:
            copies += 1
            assert apart(other, target) >= 22
        assert material.pool.origins[material._photo_index(rng, target.origin)] != target.origin
    assert 10 < copies < 100  # recoloured copies


def test_a_grey_thing_has_no_recoloured_copy() -> None:
    """Turning the hue of grey leaves it grey: such a copy would be the target again."""
    pool = coloured_pool()
    grey = [i.copy() for i in pool.images]
    for index in pool.cutouts:
        grey[index][..., :3] = 128
    material = AssetSampler(replace(pool, images=grey))
    for seed in range(100):
        rng = np.random.default_rng(seed)
        target, group = material.target(rng, "cutout")
        other = material.distractor(rng, target, group)
        assert other.origin != target.origin or apart(other, target) >= 22


def test_a_pool_of_one_video_still_gives_distractors() -> None:
    material = AssetSampler(coloured_pool(videos=1))
    rng = np.random.default_rng(0)
    target, group = material.target(rng, "cutout")
    assert all(material.distractor(rng, target, group).rgba.size for _ in range(20))


def test_what_is_held_aside_is_not_learnt_from() -> None:
    pool = coloured_pool(videos=5)
    aside, rest = part_of(pool, aside=True), part_of(pool, aside=False)
    for key in ("photos", "cutouts", "boxed"):
        one, other = set(getattr(aside, key).tolist()), set(getattr(rest, key).tolist())
        assert not one & other and one | other == set(getattr(pool, key).tolist())
    assert not set(pool.origins[aside.photos].tolist()) & set(pool.origins[rest.photos].tolist())
    assert len(aside.boxes) == len(aside.boxed) and len(aside.groups) == len(aside.cutouts)


def test_samples_show_the_same_thing_twice_and_another() -> None:
    """The target's colour fills most of its own looks where the box fits, and hardly any of the other's."""
    material = AssetSampler(coloured_pool())
    near, far = [], []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        sample = sample_patches(material, rng)
        for look in sample[:3]:
            assert look.shape == (PATCH_SIZE, PATCH_SIZE, 3) and look.dtype == np.uint8
        assert 0 <= sample.overlap <= 1
        middle = slice(PATCH_SIZE // 3, 2 * PATCH_SIZE // 3)
        first, seen, other = (look[middle, middle].reshape(-1, 3).mean(0) for look in sample[:3])
        if sample.overlap > 0.7:
            near.append(np.abs(first - seen).mean())
        far.append(np.abs(first - other).mean())
    assert np.median(near) < 0.6 * np.median(far)


def test_overlap_goes_from_poor_to_good() -> None:
    material = AssetSampler(coloured_pool())
    overlaps = [sample_patches(material, np.random.default_rng(seed)).overlap for seed in range(200)]
    assert np.quantile(overlaps, 0.1) < 0.35 and np.quantile(overlaps, 0.9) > 0.8


def test_batches_depend_on_the_seed_alone() -> None:
    pool = coloured_pool()
    first, again, other = (next(iter(SyntheticPatches(pool, 6, seed))) for seed in (3, 3, 4))
    assert first[0].shape == (6, 3, PATCH_SIZE, PATCH_SIZE, 3) and first[1].shape == (6,)
    assert (first[0] == again[0]).all() and (first[1] == again[1]).all() and not (first[0] == other[0]).all()
    two = list(islice(SyntheticPatches(pool, 6, 3), 2))
    assert not (two[0][0] == two[1][0]).all()


@pytest.mark.parametrize("mode", ["cutout", "pseudo"])
def test_targets_know_where_they_come_from(mode: str) -> None:
    material = AssetSampler(coloured_pool())
    for seed in range(20):
        target, _ = material.target(np.random.default_rng(seed), mode)
        assert target.origin in range(5)
