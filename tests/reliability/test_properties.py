"""Properties that hold for every box: conversions, losses, crops and what the tracker answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from faulty_files import tiny_network
from hypothesis import given, settings
from hypothesis import strategies as st

from vil_tracker.boxes import clip_box, convert, iou
from vil_tracker.config import TrainConfig
from vil_tracker.data.crops import CropGeometry, crop, geometry_for_box
from vil_tracker.models.head import decode_maps
from vil_tracker.models.network import NetworkOutput
from vil_tracker.tracking.tracker import Tracker
from vil_tracker.training.losses import focal_loss, gaussian_heatmap, tracking_loss

FORMATS = ("xywh", "xyxy", "cxcywh")
SEED = st.integers(0, 2**32 - 1)


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """xywh in pixels: ordinary ones, tiny, huge, negative and far ones."""
    scale = 10.0 ** rng.uniform(-3, 4, (count, 1))
    boxes = np.concatenate([rng.normal(0, 1, (count, 2)) * scale, rng.uniform(0, 1, (count, 2)) * scale], axis=1)
    boxes[rng.random(count) < 0.05, 2] = 0
    boxes[rng.random(count) < 0.05, 3] = 0
    return boxes


@pytest.mark.parametrize("source", FORMATS)
@pytest.mark.parametrize("target", FORMATS)
def test_ten_thousand_boxes_per_conversion_come_back(source, target) -> None:
    rng = np.random.default_rng(FORMATS.index(source) * 3 + FORMATS.index(target))
    boxes = convert(random_boxes(rng, 10_000), "xywh", source)
    for kind in (lambda b: b, torch.from_numpy):
        there = convert(kind(boxes), source, target)
        back = np.asarray(convert(there, target, source))
        assert back.dtype == np.float64 and np.abs(back - boxes).max() <= 1e-4


def test_float32_boxes_of_a_frame_come_back() -> None:
    rng = np.random.default_rng(0)
    boxes = np.concatenate([rng.uniform(-100, 1000, (10_000, 2)), rng.uniform(0, 1000, (10_000, 2))], 1)
    boxes = boxes.astype(np.float32)
    for source in FORMATS:
        for target in FORMATS:
            back = convert(convert(boxes, source, target), target, source)
            assert back.dtype == np.float32 and np.abs(back - boxes).max() <= 2.5e-4  # four units in the last place


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=8, max_size=8))
def test_overlap_is_a_share_whatever_the_boxes(values: list[float]) -> None:
    a, b = np.array(values[:4]), np.array(values[4:])
    value = float(iou(a, b))
    assert 0 <= value <= 1 and value == float(iou(b, a))


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.floats(allow_nan=True, allow_infinity=True), min_size=4, max_size=4),
    st.integers(1, 10_000),
    st.integers(1, 10_000),
)
def test_clipped_boxes_are_finite_not_empty_and_inside(box: list[float], width: int, height: int) -> None:
    x, y, w, h = clip_box(box, width, height)
    assert np.isfinite([x, y, w, h]).all() and x >= 0 and y >= 0
    assert w > 0 and h > 0 and x + w <= width * (1 + 1e-12) and y + h <= height * (1 + 1e-12)


# --- losses ---------------------------------------------------------------------------------------------------------

CORNER = st.one_of(st.sampled_from([0.0, 1.0, 0.5, -1.0, 2.0, 1e-7, 1e6, -1e6]), st.floats(-3, 3))
VALUE = st.one_of(st.sampled_from([0.0, 1e-30, 1.0, -100.0, 100.0, 1e4, -1e4]), st.floats(-20, 20))


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.lists(CORNER, min_size=4, max_size=4), min_size=1, max_size=4),
    st.lists(VALUE, min_size=5, max_size=5),
    st.lists(st.booleans(), min_size=4, max_size=4),
    SEED,
)
def test_every_loss_and_gradient_is_finite(rows, values, present, seed) -> None:
    count, grid = len(rows), 4
    boxes = torch.tensor(rows, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(5, count, grid, grid, generator=generator)
    score = (noise[0] * values[0] + values[1])[:, None].requires_grad_()
    offset = (noise[1:3] * values[2]).transpose(0, 1).contiguous().requires_grad_()
    size = (noise[3:5] * values[3] + values[4] / 100).transpose(0, 1).contiguous().requires_grad_()
    output = NetworkOutput(score, offset, size, torch.zeros(count, grid * grid, 8))
    total, terms = tracking_loss(output, boxes, torch.tensor(present[:count]), TrainConfig())
    total.backward()
    assert torch.isfinite(total) and all(torch.isfinite(term) for term in terms.values())
    for tensor in (score, offset, size):
        assert tensor.grad is None or torch.isfinite(tensor.grad).all()


@pytest.mark.parametrize("box", [(0.5, 0.5, 0.5, 0.5), (0.0, 0.0, 0.0, 1.0), (0.9, 0.9, 0.1, 0.1), (2, 2, 3, 3),
                                 (-1e9, -1e9, 1e9, 1e9), (0, 0, 1, 1), (0.5, 0.5, 0.5 + 1e-9, 0.5 + 1e-9)])  # fmt: skip
def test_a_prediction_equal_to_any_truth_has_finite_gradients(box: tuple[float, ...]) -> None:
    boxes = torch.tensor([box], dtype=torch.float32)
    heat = gaussian_heatmap(boxes, 4)
    assert torch.isfinite(heat).all() and heat.max() == 1
    for logits in (torch.zeros(1, 4, 4), torch.full((1, 4, 4), 1e4), torch.full((1, 4, 4), -1e4), 1e4 * (2 * heat - 1)):
        logits = logits.clone().requires_grad_()
        loss = focal_loss(logits, heat).sum()
        loss.backward()
        assert torch.isfinite(loss) and logits.grad is not None and torch.isfinite(logits.grad).all()


# --- crops ----------------------------------------------------------------------------------------------------------

FRAME = st.tuples(st.integers(1, 8000), st.integers(1, 8000))


@settings(max_examples=1000, deadline=None)
@given(FRAME, st.floats(-1, 1), st.floats(-1, 1), st.floats(8, 30_000), st.integers(16, 512), SEED)
def test_boxes_come_back_from_any_crop_that_touches_the_frame(frame, u, v, side, size, seed) -> None:
    width, height = frame
    geometry = CropGeometry(width / 2 + u * (width + side) / 2, height / 2 + v * (height + side) / 2, side, size)
    rng = np.random.default_rng(seed)
    boxes = np.concatenate([rng.uniform(-width, 2 * width, (50, 2)), rng.uniform(0.01, 2 * width, (50, 2))], 1)
    assert np.abs(geometry.to_image(geometry.to_crop(boxes)) - boxes).max() <= 0.01
    # and through the float32 in which the network speaks, for targets that it could see
    inside = geometry.to_image(rng.uniform(0, 0.5, (50, 4)).cumsum(1)[:, [0, 1, 2, 3]])
    back = geometry.to_image(geometry.to_crop(inside).astype(np.float32).astype(np.float64))
    assert np.abs(back - inside).max() <= 0.01 * max(1.0, side / 10_000)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90), st.floats(-1, 1), st.floats(-1, 1), st.floats(8, 3000))
def test_every_crop_is_a_picture(width, height, u, v, side) -> None:
    image = np.full((height, width, 3), 77, np.uint8)
    geometry = CropGeometry(width / 2 + u * (width + side), height / 2 + v * (height + side), side, 32)
    part = crop(image, geometry)
    assert part.shape == (32, 32, 3) and (part == 77).all()  # the fill is the mean colour


def test_a_pixel_lands_where_the_geometry_says() -> None:
    """The picture's own round trip: a bright square's centre of mass in the crop maps back onto the square."""
    rng = np.random.default_rng(3)
    worst = 0.0
    for _ in range(200):
        image = np.zeros((120, 160, 3), np.uint8)
        x, y = int(rng.integers(10, 130)), int(rng.integers(10, 90))
        image[y : y + 16, x : x + 20] = 255
        box = np.array([x, y, 20, 16]) + rng.uniform(-4, 4, 4) * (1, 1, 0, 0)
        geometry = geometry_for_box(box, float(rng.uniform(2.5, 4.0)), 128)
        weight = crop(image, geometry, (0, 0, 0))[..., 0].astype(np.float64)
        u = ((np.arange(128) + 0.5) @ weight.sum(0)) / weight.sum() / 128
        v = ((np.arange(128) + 0.5) @ weight.sum(1)) / weight.sum() / 128
        found = geometry.to_image(np.array([u, v, u, v]))[:2]
        worst = max(worst, float(np.abs(found - (x + 10, y + 8)).max()))
    assert worst < 0.05


# --- predictions ----------------------------------------------------------------------------------------------------


@settings(max_examples=200, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=True, allow_infinity=True), min_size=6, max_size=6), SEED)
def test_decoded_boxes_are_boxes_for_any_maps(values: list[float], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.randn(5, 1, 4, 4, generator=generator)
    score = maps[0][None].clone()
    score.view(-1)[:6] = torch.tensor(values)
    boxes, scores = decode_maps(
        score, torch.sigmoid(maps[1:3]).transpose(0, 1), torch.sigmoid(maps[3:5]).transpose(0, 1)
    )
    assert torch.isfinite(boxes).all() and (boxes[:, 2:] > boxes[:, :2]).all()
    assert ((scores >= 0) & (scores <= 1)).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(1, 200), st.floats(-0.99, 0.99), st.floats(-0.99, 0.99), SEED)
def test_tracked_boxes_are_finite_not_empty_and_inside(width, height, u, v, seed) -> None:
    rng = np.random.default_rng(seed)
    size = np.exp(rng.uniform(math.log(0.5), math.log(400), 2))
    box = np.array([u * size[0] if u < 0 else u * width, v * size[1] if v < 0 else v * height, *size])
    tracker = Tracker(TINY)
    tracker.init(rng.integers(0, 256, (height, width, 3), dtype=np.uint8), box)
    for _ in range(3):
        if rng.random() < 0.3:
            width, height = int(rng.integers(1, 200)), int(rng.integers(1, 200))
        result = tracker.update(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        x, y, w, h = result.box
        assert np.isfinite(result.box).all() and 0 <= result.score <= 1
        assert x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= width + 1e-9 and y + h <= height + 1e-9


TINY = tiny_network()
