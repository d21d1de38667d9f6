"""Training the verifier: the loss, and that a short run learns."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vil_tracker.data.synthetic.photo_pool import pool_from_arrays
from vil_tracker.models.verifier import PATCH_SIZE, VerifierNet
from vil_tracker.training.verifier import loss, train_verifier


class Known(VerifierNet):
    """Embeds a look as the one-hot vector of its first pixel, and answers with given logits where two agree."""

    def embed(self, looks):
        return F.one_hot(looks[:, 0, 0, 0].long(), 8).float() + 0 * self.embedding.bias.sum()

    def compare(self, first, seen):
        same = (first * seen).sum(1)
        return torch.stack([6 * same - 3, 4 * same - 4], 1)


def test_the_loss_by_hand() -> None:
    """Three targets seen again, well boxed, and three other things, each answered by what ``Known`` says."""
    looks = torch.zeros((3, 3, PATCH_SIZE, PATCH_SIZE, 3), dtype=torch.uint8)
    for row, (first, seen, other) in enumerate(((0, 0, 3), (1, 1, 4), (2, 2, 5))):
        looks[row, :, 0, 0, 0] = torch.tensor([first, seen, other], dtype=torch.uint8)
    value = loss(Known(), looks, torch.ones(3))
    expected = math.log1p(math.exp(-3)) * 3  # once right, once other, and the mean of two of the batch
    fit = math.log(2) + 2 * math.log1p(math.exp(-4))
    contrast = math.log1p(5 * math.exp(-10))
    assert value.item() == pytest.approx(expected + fit + 0.5 * contrast, abs=1e-5)


def test_a_box_half_on_the_thing_is_neither_same_nor_other() -> None:
    """Between the two limits only the overlap is asked about."""
    looks = torch.zeros((2, 3, PATCH_SIZE, PATCH_SIZE, 3), dtype=torch.uint8)
    for row, marks in enumerate(((0, 0, 3), (1, 1, 4))):
        looks[row, :, 0, 0, 0] = torch.tensor(marks, dtype=torch.uint8)
    network = Known()
    overlaps = torch.tensor([0.2, 1.0])
    asked = loss(network, looks, overlaps) - loss(network, looks, torch.tensor([0.31, 1.0]))
    # Taking the first row in adds its answer "the same", a bit of contrast aside, and moves the overlap's target.
    expected = -math.log1p(math.exp(-3)) / 2
    entropy = [F.binary_cross_entropy_with_logits(torch.tensor(0.0), torch.tensor(t)).item() / 2 for t in (0.2, 0.31)]
    assert asked.item() == pytest.approx(expected + entropy[0] - entropy[1], abs=1e-3)


def test_a_short_run_learns_to_tell_things_apart() -> None:
    rng = np.random.default_rng(0)
    photos = [
        np.kron(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8), np.ones((20, 20, 1), np.uint8)) for _ in range(30)
    ]
    reports = []
    trained = train_verifier(
        pool_from_arrays(photos), 60, batch=24, workers=0, every=20, on_report=lambda *report: reports.append(report)
    )
    assert [report[0] for report in reports] == [20, 40, 60]
    assert reports[-1][1] < reports[0][1]
    assert reports[-1][2]["auroc"] > 0.7 and 0 < reports[-1][2]["overlap"] < 0.5
    assert not trained.training
