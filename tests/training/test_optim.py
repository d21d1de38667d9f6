"""The learning rate over a run, by the name of its schedule."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from training_fakes import tiny_config

from vil_tracker.models.network import build_network
from vil_tracker.training.optim import build_scheduler, in_stem, parameter_groups
from vil_tracker.training.state import build_state


def rates(**train: object) -> list[float]:
    """The rate of each of 100 steps, where the peak is 1."""
    config = tiny_config(steps=100, lr=1.0, warmup_steps=10, **train).train
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.lr)
    scheduler = build_scheduler(optimizer, config)
    found = []
    for step in range(config.steps):
        scheduler.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_both_schedules_warm_up_alike() -> None:
    cosine, step = rates(), rates(schedule="step")
    assert cosine[:10] == step[:10] == pytest.approx([1e-3 + 0.999 * k / 10 for k in range(10)])


def test_the_cosine_ends_at_its_share_of_the_peak() -> None:
    found = rates(final_lr_scale=0.2)
    assert found[10:] == pytest.approx([0.2 + 0.4 * (1 + math.cos(math.pi * k / 100)) for k in range(10, 100)])


def test_the_step_schedule_drops_where_it_is_told() -> None:
    found = rates(schedule="step")  # as OSTrack: a tenth after four fifths
    assert found[10:80] == [1.0] * 70 and found[80:] == pytest.approx([0.1] * 20)
    found = rates(schedule="step", decay_after=0.4, decay_rate=0.5)
    assert found[39:41] == pytest.approx([1.0, 0.5]) and found[79:81] == pytest.approx([0.5, 0.25])


def test_a_mobile_stem_learns_at_its_own_rate() -> None:
    """Its projection and the position embedding at the backbone's, the head at the peak."""
    config = tiny_config(lr=1.0, backbone_lr_scale=0.5, stem_lr_scale=0.1)
    network = build_network(replace(config.model, stem="mobile"))
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    rate = {
        names[id(parameter)]: group["lr"]
        for group in parameter_groups(network, config.train)
        for parameter in group["params"]
    }
    assert rate.keys() == set(names.values())
    assert rate["backbone.patch_embed.first.weight"] == rate["backbone.patch_embed.blocks.8.squeeze.bias"] == 0.05
    assert rate["backbone.patch_embed.proj.weight"] == rate["backbone.sublayers.0.layer.proj_up.weight"] == 0.5
    assert rate["head.score.0.weight"] == 1.0


def test_a_stem_without_a_rate_stays_as_it_is() -> None:
    config = tiny_config(stem_lr_scale=0.0)
    network = build_state(replace(config, model=replace(config.model, stem="mobile")), torch.device("cpu")).network
    still = {name for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert {name for name in still if name.startswith("backbone.")} == {
        name
        for name, _ in network.named_parameters()
        if name.startswith(("backbone.patch_embed.first", "backbone.patch_embed.blocks"))
    }


def test_every_stem_obeys_its_rate() -> None:
    """A patch stem is nothing but a projection."""
    assert in_stem("backbone.patch_embed.0.weight") and not in_stem("backbone.patch_embed.proj.weight")
