"""Conversions of boxes in NumPy equal those of torchvision, bit for bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torchvision.ops import box_convert

from vil_tracker.boxes import convert

FORMATS = ("xywh", "xyxy", "cxcywh")


@pytest.mark.parametrize(("source", "target"), list(itertools.product(FORMATS, FORMATS)))
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_conversions_equal_torchvisions(source: str, target: str, dtype: type) -> None:
    boxes = np.random.default_rng(0).uniform(-50, 500, (40, 3, 4)).astype(dtype)
    kept = boxes.copy()
    ours = convert(boxes, source, target)
    theirs = box_convert(torch.from_numpy(boxes), source, target).numpy()
    assert ours.dtype == dtype and np.array_equal(ours, theirs)
    assert np.array_equal(boxes, kept) and not np.shares_memory(ours, boxes)
    assert torch.equal(convert(torch.from_numpy(boxes), source, target), torch.from_numpy(theirs))


def test_whole_numbers_may_get_halves() -> None:
    assert convert(np.array([1, 2, 3, 4]), "xywh", "cxcywh").tolist() == [2.5, 4.0, 3.0, 4.0]
