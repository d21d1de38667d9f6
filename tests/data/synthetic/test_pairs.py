"""Synthetic pairs: exact boxes, flags, dependence on the generator alone, and the pool behind them."""

from __future__ import annotations

import json
import math
import pickle
from dataclasses import replace

import cv2
import numpy as np
import pytest
from synthetic_pools import bright_box, disc, square_pool, texture

from vil_tracker.data.synthetic.compose import CompositeCrop, paste_occluder, random_frame
from vil_tracker.data.synthetic.pairs import MODES, SyntheticConfig, SyntheticPairs
from vil_tracker.data.synthetic.photo_pool import cut_out, load_photo_pool, mask_from_box
from vil_tracker.data.synthetic.sprites import (
    Joint,
    Pose,
    Sprite,
    bend,
    bounds,
    fold,
    outline,
    place,
    warp,
    warp_sprite,
)
from vil_tracker.errors import UserError

PLAIN = SyntheticConfig(negatives=0.0, far=0.0, fill=0.0, occlusion=0.0, grey=0.0)


@pytest.fixture(scope="module")
def pairs(pool) -> SyntheticPairs:
    return SyntheticPairs(pool, 96, 192, 2.0, 4.0)


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_makes_valid_pairs(pairs, mode):
    for seed in range(40):
        sample = pairs.sample_mode(np.random.default_rng(seed), mode, 1.0)
        assert sample.template.shape == (96, 96, 3) and sample.template.dtype == np.uint8
        assert sample.search.shape == (192, 192, 3) and sample.search.dtype == np.uint8
        x1, y1, x2, y2 = sample.template_box
        assert 0 <= x1 < x2 <= 1 or x2 - x1 > 0.9  # only very long targets fill the crop's width
        assert abs((x1 + x2) / 2 - 0.5) < 1e-6 and abs((y1 + y2) / 2 - 0.5) < 1e-6
        assert np.sqrt((x2 - x1) * (y2 - y1)) == pytest.approx(0.5, abs=1e-5)  # template factor 2
        x1, y1, x2, y2 = sample.search_box
        if sample.present:
            assert x2 > x1 and y2 > y1
            assert -0.1 < (x1 + x2) / 2 < 1.1 and -0.1 < (y1 + y2) / 2 < 1.1
        else:
            assert not sample.search_box.any()


def test_pairs_depend_on_the_generator_alone(pairs, pool):
    other = SyntheticPairs(pool, 96, 192, 2.0, 4.0)
    for seed in range(25):
        first = pairs.sample(np.random.default_rng((5, seed)), 1.0)
        other.sample(np.random.default_rng(seed + 100), 1.0)  # whatever came before leaves no trace
        second = other.sample(np.random.default_rng((5, seed)), 1.0)
        for a, b in zip(first, second, strict=True):
            np.testing.assert_array_equal(a, b)


def test_negatives_and_their_share(pool):
    always = SyntheticPairs(pool, 48, 96, config=SyntheticConfig(negatives=1.0))
    never = SyntheticPairs(pool, 48, 96, config=SyntheticConfig(negatives=0.0))
    for seed in range(30):
        assert not always.sample(np.random.default_rng(seed), 1.0).present
        assert never.sample(np.random.default_rng(seed), 1.0).present


@pytest.mark.parametrize(("mode", "difficulty", "tolerance"), [("boxed", 0.0, 1.0), ("cutout", 1.0, 1.6)])
def test_boxes_fit_a_bright_square(mode, difficulty, tolerance):
    pairs = SyntheticPairs(square_pool(), 96, 192, config=replace(PLAIN, bend=0.0))
    pairs._scatter = lambda *args, **kwargs: None  # type: ignore[method-assign]  # nothing else that is bright
    make = pairs._photographed if mode == "boxed" else pairs._composed
    compared = 0
    for seed in range(60):
        template, template_box, search = make(np.random.default_rng(seed), mode, (96, 192), difficulty, True)
        for view in (template, search):
            n = view.canvas.shape[0]
            if view.box.min() > 1 and view.box.max() < n - 1:
                np.testing.assert_allclose(view.box, bright_box(view.canvas), atol=tolerance)
                compared += 1
        np.testing.assert_allclose(template_box * 96, template.box, atol=10)
    assert compared > 90


def test_bent_cutouts_keep_an_exact_outline_and_are_not_cut_off():
    """The square fills its sprite, so that whatever moves outwards leaves the old frame."""
    rgba = np.full((40, 60, 4), 255, np.uint8)
    sprite = Sprite(rgba, outline(rgba[..., 3]))
    changed = 0
    for seed in range(20):
        grid = np.random.default_rng(seed).normal(0.0, 0.05, (4, 4, 2))
        bent = bend(sprite, grid)
        alpha = bent.rgba[..., 3]
        rows, columns = np.flatnonzero((alpha > 127).any(1)), np.flatnonzero((alpha > 127).any(0))
        np.testing.assert_array_equal(bent.hull.min(0), (columns[0], rows[0]))
        np.testing.assert_array_equal(bent.hull.max(0), (columns[-1] + 1, rows[-1] + 1))
        assert not any(edge.max() > 127 for edge in (alpha[0], alpha[-1], alpha[:, 0], alpha[:, -1]))
        changed += abs(int((alpha > 127).sum()) - 40 * 60) > 20
    assert changed > 10


def test_a_folded_bar_turns_at_its_joint():
    """The lower half of an upright bar turns by 60 degrees about its middle, the upper half stays where it was."""
    bar = Sprite(np.full((100, 20, 4), 255, np.uint8), np.array([[0.0, 0.0], [20.0, 0.0], [20.0, 100.0], [0.0, 100.0]]))
    joint = Joint((0.5, 0.5), math.pi / 2, 0.05)
    folded = fold(bar, [joint], [math.pi / 3])
    opaque = folded.rgba[..., 3] > 127
    rows, columns = np.nonzero(opaque)
    top, margin = rows.min(), int(columns.max()) + 1 - 20
    upper = opaque[top : top + 40]
    assert upper[:, margin : margin + 20].mean() > 0.97 and upper.sum() < 40 * 21
    # (0, 50) below the pivot at (10, 50) goes to (-50 sin 60, 50 cos 60), and the bar's half width beside it.
    half = 10 * np.array([math.cos(math.pi / 3), math.sin(math.pi / 3)])
    tip = np.array([10 - 50 * math.sin(math.pi / 3), 50 + 50 * math.cos(math.pi / 3)])
    found = np.array([columns.min() - margin, rows.max() + 1 - top])
    np.testing.assert_allclose(found, (tip[0] - half[0], tip[1] + half[1]), atol=3)
    np.testing.assert_array_equal(folded.hull.min(0), (columns.min(), rows.min()))
    still = fold(bar, [joint], [0.0]).rgba
    np.testing.assert_array_equal(still[1:-1, 1:-1], bar.rgba)


def test_template_box_is_a_little_wrong_and_the_search_box_exact(pool):
    pairs = SyntheticPairs(pool, 96, 192, config=PLAIN)
    errors = []
    for seed in range(100):
        template, box, _ = pairs._composed(np.random.default_rng(seed), "cutout", (96, 192), 1.0, True)
        errors.append((box * 96 - template.box) / 48)
    assert 0.015 < np.std(errors) < 0.06
    assert np.abs(errors).max() < 0.2


def test_fill_bands_have_one_colour_and_boxes_end_at_them(pool):
    config = SyntheticConfig(still=0, boxed=0, clip=0, fill=1.0, negatives=0.0, far=0.0, occlusion=0.0)
    pairs = SyntheticPairs(pool, 96, 192, config=config)
    for seed in range(25):
        sample = pairs.sample(np.random.default_rng(seed), 1.0)
        flat_rows = (sample.search == sample.search[:, :1]).all((1, 2))
        flat_columns = (sample.search == sample.search[:1]).all((0, 2))
        assert flat_rows.any() or flat_columns.any()
        x1, y1, x2, y2 = sample.search_box * 192
        inside_columns = np.flatnonzero(~flat_columns)
        assert x1 >= inside_columns[0] - 1 or not flat_columns[0]
        assert x2 <= inside_columns[-1] + 2 or not flat_columns[-1]


def test_an_occluder_never_hides_most_of_the_target():
    canvas = np.zeros((100, 100, 3), np.uint8)
    big = Sprite(np.full((20, 20, 4), 255, np.uint8), np.array([[0.0, 0.0], [20.0, 0.0], [20.0, 20.0], [0.0, 20.0]]))
    view = CompositeCrop(canvas, np.array([40.0, 40.0, 60.0, 60.0]))
    paste_occluder(view, big, place(big.hull, np.eye(2), (50.0, 50.0), 30.0), 0.55)
    assert not view.canvas.any()
    paste_occluder(view, big, place(big.hull, np.eye(2), (65.0, 50.0), 20.0), 0.55)
    assert view.canvas[50, 62].all() and not view.canvas[50, 45].any()


def test_random_frames_keep_the_promised_part_of_the_target():
    rng = np.random.default_rng(0)
    box = np.array([60.0, 80.0, 120.0, 110.0])
    for _ in range(300):
        x1, y1, x2, y2 = random_frame(rng, box, 192, cut=0.35)
        assert x1 <= 60 + 0.35 * 60 + 1e-9 and x2 >= 120 - 0.35 * 60 - 1e-9
        assert y1 <= 80 + 0.35 * 30 + 1e-9 and y2 >= 110 - 0.35 * 30 - 1e-9


def test_an_empty_mixture_is_refused(pool):
    with pytest.raises(UserError, match="mixture"):
        SyntheticPairs(pool, config=SyntheticConfig(still=0, boxed=0, cutout=0, pseudo=0, clip=0))
    with pytest.raises(UserError, match="at least 0"):
        SyntheticConfig(still=-1)


# --- sprites ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("angle", [0.0, 0.4, -1.1])
@pytest.mark.parametrize("size", [12.0, 40.0, 75.0])
def test_bounds_equal_those_of_the_pasted_pixels(angle, size):
    rgba = np.zeros((50, 70, 4), np.uint8)
    cv2.ellipse(rgba, ((35, 25), (60, 40), 20), (255, 255, 255, 255), -1)
    sprite = Sprite(rgba, outline(rgba[..., 3]))
    matrix = place(sprite.hull, Pose(angle, 0.2, 0.1, True).linear(), (61.3, 58.7), size)
    box = bounds(sprite.hull, matrix)
    assert np.sqrt(np.prod(box[2:] - box[:2])) == pytest.approx(size)
    np.testing.assert_allclose((box[:2] + box[2:]) / 2, (61.3, 58.7))
    warped = warp_sprite((120, 120), sprite, matrix)
    assert warped is not None
    alpha = np.zeros((120, 120), np.uint8)
    alpha[warped[0]] = warped[1][..., 3]
    np.testing.assert_allclose(box, bright_box(np.dstack([60 + alpha / 255.0 * 195] * 3)), atol=1.0)


def test_warp_agrees_with_a_plain_average_when_shrinking():
    photo = texture(3, 120, 160)
    small = warp(photo, np.array([[0.25, 0.0, 0.0], [0.0, 0.25, 0.0]]), (40, 30))
    expected = photo.reshape(30, 4, 40, 4, 3).mean((1, 3))
    assert np.abs(small.astype(float) - expected).max() <= 1.0


def test_pose_has_unit_determinant():
    for flip, sign in ((False, 1), (True, -1)):
        assert np.linalg.det(Pose(0.3, 0.2, 0.1, flip).linear()) == pytest.approx(sign)


# --- pool ---------------------------------------------------------------------------------------------------------


def test_cut_out_takes_the_object_and_refuses_poor_masks():
    photo = texture(1)
    rgba = cut_out(photo, disc())
    assert rgba is not None and rgba.shape[2] == 4
    assert rgba[rgba.shape[0] // 2, rgba.shape[1] // 2, 3] == 255 and rgba[0, 0, 3] == 0
    full = np.zeros((120, 160), bool)
    full[20:100, 20:140] = True  # the box itself
    fragments = np.zeros((120, 160), bool)
    fragments[20:40, 20:40] = fragments[70:90, 70:90] = fragments[20:40, 100:120] = True
    sliver = np.eye(120, 160, dtype=bool)
    for poor in (full, fragments, sliver, np.zeros((120, 160), bool)):
        assert cut_out(photo, poor) is None


def test_mask_from_box_finds_a_clear_object():
    photo = np.full((120, 160, 3), 70, np.uint8) + np.random.default_rng(0).integers(0, 20, (120, 160, 3), np.uint8)
    round_thing = disc()
    photo[round_thing] = photo[round_thing] // 4 + np.array([180, 20, 20], np.uint8)
    mask = mask_from_box(photo, np.array([48.0, 28.0, 64.0, 64.0]))
    assert mask is not None
    assert (mask & round_thing).sum() / (mask | round_thing).sum() > 0.9
    assert mask_from_box(photo, np.array([0.0, 0.0, 160.0, 120.0])) is None  # no background beside the box


@pytest.fixture
def tree(tmp_path):
    (tmp_path / "stills").mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / "stills" / f"{i}.png"), texture(i))
    for folder in ("images", "masks"):
        (tmp_path / "objects" / folder).mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "objects" / "images" / "a.png"), texture(5))
    cv2.imwrite(str(tmp_path / "objects" / "masks" / "a.png"), disc().astype(np.uint8) * 255)
    annotations = {
        "images": [{"id": 1, "file_name": "a.png", "source": "ecssd"}],
        "annotations": [{"id": 1, "image_id": 1, "bbox": [50, 30, 60, 60], "mask_file": "a.png"}],
    }
    (tmp_path / "objects" / "annotations.json").write_text(json.dumps(annotations))
    clip = tmp_path / "clips" / "c0"
    clip.mkdir(parents=True)
    for i in range(2):
        cv2.imwrite(str(clip / f"{i}.png"), texture(10 + i))
    (clip / "groundtruth.txt").write_text("10,10,40,30\n20,20,40,30\n")
    return tmp_path


def test_pool_from_a_tree_and_from_its_cache(tree, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    direct, built, mapped = load_photo_pool(tree), load_photo_pool(tree, cache), load_photo_pool(tree, cache)
    assert (len(direct.photos), len(direct.boxed), len(direct.cutouts), len(direct.clips)) == (4, 1, 1, 1)
    for other in (built, mapped, pickle.loads(pickle.dumps(mapped)), pickle.loads(pickle.dumps(direct))):
        for a, b in zip(direct.images, other.images, strict=True):
            np.testing.assert_array_equal(a, b)
        for key in ("photos", "boxed", "boxes", "cutouts", "groups", "origins"):
            np.testing.assert_array_equal(getattr(direct, key), getattr(other, key))
        np.testing.assert_array_equal(direct.clip_boxes[0], other.clip_boxes[0])
    assert len(pickle.dumps(mapped)) < 1000  # a loader process maps the file instead of receiving the pixels
    assert len(list(cache.iterdir())) == 2


def test_damaged_cache_and_missing_photos_are_reported(tree, tmp_path_factory):
    cache = tmp_path_factory.mktemp("cache")
    load_photo_pool(tree, cache)
    pixels = next(cache.glob("*.bin"))
    pixels.write_bytes(pixels.read_bytes()[:-5])
    with pytest.raises(UserError, match="delete it"):
        load_photo_pool(tree, cache)
    with pytest.raises(UserError, match="no photo found"):
        load_photo_pool(tmp_path_factory.mktemp("empty"))
    with pytest.raises(UserError, match="no folder"):
        load_photo_pool(tree / "nowhere")


# --- clips --------------------------------------------------------------------------------------------------------


def test_kinds_can_be_chosen_by_name(pool):
    """The configuration's `kinds`: only those are drawn, and a name that is none is an error that names it."""
    chosen = SyntheticPairs(pool, 32, 64, config=SyntheticConfig().only("still, pseudo"))
    rng = np.random.default_rng(0)
    assert {chosen.draw_mode(rng) for _ in range(200)} == {"still", "pseudo"}
    assert SyntheticConfig().only("") == SyntheticConfig()
    with pytest.raises(UserError, match="no kind 'stil': choose from still"):
        SyntheticConfig().only("stil")
