"""The losses against their formulas, and with boxes that no data set should contain."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vil_tracker.config import TrainConfig
from vil_tracker.models.network import NetworkOutput
from vil_tracker.training.losses import centre_cell, focal_loss, gaussian_heatmap, tracking_loss

GRID = 4


def maps(batch: int, seed: int = 0, scale: float = 1.0) -> NetworkOutput:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(batch, 1, GRID, GRID, generator=generator)
    offset, size = (torch.rand(batch, 2, GRID, GRID, generator=generator) for _ in range(2))
    leaves = [part.requires_grad_() for part in (logits, offset, size)]
    return NetworkOutput(*leaves, torch.zeros(batch, GRID * GRID, 8))


def test_focal_loss_is_the_published_formula() -> None:
    logits = torch.tensor([[[0.3, -1.2], [2.0, 0.0]]])
    target = torch.tensor([[[1.0, 0.4], [0.0, 0.9]]])
    expected = 0.0
    for logit, y in zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True):
        p = 1 / (1 + math.exp(-logit))
        expected -= (1 - p) ** 2 * math.log(p) if y == 1 else (1 - y) ** 4 * p**2 * math.log(1 - p)
    assert focal_loss(logits, target).item() == pytest.approx(expected, rel=1e-5)


def test_the_heatmap_is_one_in_the_centre_cell_alone() -> None:
    boxes = torch.tensor([[0.1, 0.1, 0.3, 0.3], [0.5, 0.0, 1.0, 0.5], [-0.5, 0.9, -0.3, 1.4]])
    heat = gaussian_heatmap(boxes, GRID)
    cells = centre_cell(boxes, GRID)
    assert cells.tolist() == [0, 1 * GRID + 3, 3 * GRID + 0]  # the last one's centre lies outside
    assert (heat.flatten(1).argmax(1) == cells).all() and ((heat == 1).flatten(1).sum(1) == 1).all()
    assert (heat >= 0).all() and (heat <= 1).all()


def test_a_perfect_answer_costs_next_to_nothing() -> None:
    box = torch.tensor([[0.3, 0.4, 0.7, 0.9]])
    centre, side = torch.tensor([0.5, 0.65]), torch.tensor([0.4, 0.5])
    heat = gaussian_heatmap(box, GRID)
    offset = (centre * GRID - (centre * GRID).floor())[None, :, None, None].expand(1, 2, GRID, GRID)
    size = side[None, :, None, None].expand(1, 2, GRID, GRID)
    logits = torch.where(heat == 1, 12.0, -12.0)[:, None]
    output = NetworkOutput(logits, offset, size, torch.zeros(1, 16, 8))
    total, terms = tracking_loss(output, box, torch.tensor([True]), TrainConfig())
    assert total.item() < 1e-3 and terms["iou"].item() == pytest.approx(1, abs=1e-5)
    worse, _ = tracking_loss(output._replace(size=size * 0.5), box, torch.tensor([True]), TrainConfig())
    assert worse > total + 1


def test_an_absent_target_teaches_the_score_alone() -> None:
    output = maps(2)
    boxes = torch.tensor([[0.0, 0.0, 0.0, 0.0], [0.3, 0.3, 0.6, 0.6]])
    total, terms = tracking_loss(output, boxes, torch.tensor([False, False]), TrainConfig())
    total.backward()
    assert terms["giou"] == 0 and terms["l1"] == 0
    assert output.score_logits.grad.abs().sum() > 0
    assert output.size.grad.abs().sum() == 0 and output.offset.grad.abs().sum() == 0


def test_the_mean_of_two_halves_is_that_of_the_whole_batch() -> None:
    boxes = torch.tensor([[0.1, 0.1, 0.5, 0.6], [0.2, 0.2, 0.4, 0.4], [0.0, 0.3, 0.9, 0.7], [0.5, 0.5, 0.6, 0.9]])
    present = torch.tensor([True, False, True, True])
    output = maps(4)
    whole, _ = tracking_loss(output, boxes, present, TrainConfig())
    parts = []
    for part in (slice(0, 2), slice(2, 4)):
        half = NetworkOutput(*(x[part] for x in output[:4]))
        parts.append(tracking_loss(half, boxes[part], present[part], TrainConfig())[0])
    assert whole.item() == pytest.approx((sum(parts) / 2).item(), rel=1e-6)


coordinate = st.one_of(st.floats(-3, 4, width=32), st.sampled_from([0.0, 1.0, 0.5, 1e-7, -1e-7, 1e6, -1e6]))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(coordinate, coordinate, coordinate, coordinate), min_size=64, max_size=64),
    st.sampled_from([0.1, 1.0, 30.0, 1e4]),
    st.integers(0, 1000),
)
def test_every_box_gives_finite_losses_and_gradients(boxes: list, scale: float, seed: int) -> None:
    """150 × 64 boxes: ordinary, empty, inverted, outside and huge ones."""
    output = maps(64, seed, scale)
    total, terms = tracking_loss(output, torch.tensor(boxes), torch.ones(64, dtype=torch.bool), TrainConfig())
    total.backward()
    assert torch.isfinite(total) and all(torch.isfinite(value) for value in terms.values())
    for part in output[:3]:
        assert part.grad is not None and torch.isfinite(part.grad).all()
