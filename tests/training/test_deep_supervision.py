"""Deep supervision: what the probes ask, and that they stay out of the weights."""

from __future__ import annotations

import math

import torch

from vil_tracker.config import ModelConfig
from vil_tracker.models.network import build_network
from vil_tracker.training.deep_supervision import ForegroundProbes

SMALL = ModelConfig(dim=32, depth=3, template_size=32, search_size=64, head_channels=16, modulation_interval=3)


def pass_through(network: torch.nn.Module) -> None:
    network(
        torch.randn(2, 1, 3, 32, 32), torch.tensor([0.25, 0.25, 0.75, 0.75]).expand(2, 1, 4), torch.randn(2, 3, 64, 64)
    )


def test_the_loss_is_the_weighted_cross_entropy_worked_out_by_hand():
    network = build_network(SMALL)
    probes = ForegroundProbes(32, 3)
    seen = probes.register_hooks(network)
    pass_through(network)
    # Top left quarter of the 4 × 4 cells, and an absent target. The probes begin at logit -2 everywhere.
    boxes = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 1.0, 1.0]])
    loss = probes(seen, boxes, torch.tensor([True, False]), grid=4)
    off, on = math.log1p(math.exp(-2)), math.log1p(math.exp(2))
    expected = len(probes.depths) * (4 * 3 * on + 28 * off) / 32
    assert abs(loss.item() - expected) < 1e-5


def test_the_signal_reaches_the_template_through_every_watched_depth():
    torch.manual_seed(0)
    network = build_network(SMALL)
    probes = ForegroundProbes(32, 3)
    for probe in probes.probes:
        torch.nn.init.normal_(probe[1].weight)
    seen = probes.register_hooks(network)
    pass_through(network)
    assert len(seen) == len(probes.depths)
    probes(seen, torch.tensor([[0.1, 0.2, 0.6, 0.7]]).expand(2, 4), torch.tensor([True, True]), grid=4).backward()
    assert network.type_embed.grad is not None and (network.type_embed.grad.abs().sum(1) > 0).all()


def test_probes_are_no_part_of_the_network():
    network = build_network(SMALL)
    names = set(network.state_dict())
    ForegroundProbes(32, 3).register_hooks(network)
    assert set(network.state_dict()) == names
