from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vil_tracker.models.head import MIN_SIZE, CentreHead, decode_maps


def maps(rows: int = 4, columns: int = 6) -> tuple[Tensor, Tensor, Tensor]:
    score = torch.full((1, 1, rows, columns), -5.0)
    return score, torch.full((1, 2, rows, columns), 0.5), torch.full((1, 2, rows, columns), 0.2)


def test_the_box_is_read_off_the_best_cell() -> None:
    score, offset, size = maps()
    score[0, 0, 1, 4] = 2.0
    offset[0, :, 1, 4] = torch.tensor([0.25, 0.75])
    size[0, :, 1, 4] = torch.tensor([0.3, 0.1])
    boxes, scores = decode_maps(score, offset, size)
    cx, cy = 4.25 / 6, 1.75 / 4
    torch.testing.assert_close(boxes, torch.tensor([[cx - 0.15, cy - 0.05, cx + 0.15, cy + 0.05]]))
    torch.testing.assert_close(scores, torch.tensor([1 / (1 + math.exp(-2.0))]))


def test_the_window_chooses_but_does_not_lower_the_score() -> None:
    score, offset, size = maps()
    score[0, 0, 0, 0], score[0, 0, 2, 3] = 3.0, 2.0
    window = torch.zeros(4, 6)
    window[2, 3] = 0.5
    boxes, scores = decode_maps(score, offset, size, window)
    assert boxes[0, 0].item() == pytest.approx(3.5 / 6 - 0.1)
    assert scores.item() == pytest.approx(1 / (1 + math.exp(-2.0)))


@settings(max_examples=150, deadline=None)
@given(
    st.integers(0, 2**31),
    st.sampled_from([1e-3, 1.0, 30.0, 1e4, 1e30]),
    st.integers(1, 7),
    st.integers(1, 7),
    st.booleans(),
)
def test_boxes_are_always_boxes(seed: int, scale: float, rows: int, columns: int, half: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(2, 5, rows, columns, generator=generator)
    if half:
        logits = logits.bfloat16()
    window = torch.rand(rows, columns, generator=generator)
    for weights in (None, window, torch.zeros(rows, columns)):
        boxes, scores = decode_maps(logits[:, :1], logits[:, 1:3].sigmoid(), logits[:, 3:].sigmoid(), weights)
        assert boxes.isfinite().all() and scores.isfinite().all()
        assert (boxes[:, 2] > boxes[:, 0]).all() and (boxes[:, 3] > boxes[:, 1]).all()
        assert (scores >= 0).all() and (scores <= 1).all()
        size = boxes[:, 2:] - boxes[:, :2]
        assert (size > 0.9 * MIN_SIZE).all() and (size <= 1.0001).all()


def test_infinite_logits_still_give_boxes() -> None:
    score = torch.tensor([math.inf, -math.inf, 0.0, math.inf]).view(1, 1, 2, 2)
    extremes = torch.tensor([-math.inf, math.inf]).view(1, 2, 1, 1).expand(1, 2, 2, 2).sigmoid()
    boxes, _ = decode_maps(score, extremes, extremes)
    assert boxes.isfinite().all() and (boxes[:, 2:] > boxes[:, :2]).all()


def test_maps_begin_at_the_focal_prior() -> None:
    torch.manual_seed(0)
    head = CentreHead(32, 16)
    score, offset, size = head(torch.randn(3, 32, 5, 6))
    assert score.shape == (3, 1, 5, 6) and offset.shape == size.shape == (3, 2, 5, 6)
    torch.testing.assert_close(score.sigmoid().mean(), torch.tensor(0.01), rtol=0.2, atol=0)
    for values in (offset, size):
        assert (values > 0).all() and (values < 1).all()


def test_maps_are_full_precision_under_autocast() -> None:
    head = CentreHead(32, 16)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = head(torch.randn(1, 32, 4, 4))
    assert all(part.dtype == torch.float32 for part in outputs)
