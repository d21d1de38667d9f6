"""A grown network computes what the small one does, with and without a template memory and a temporal context."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from vil_tracker.config import ModelConfig
from vil_tracker.errors import UserError
from vil_tracker.models.film_temporal import TemporalContext
from vil_tracker.models.growth import grow_network
from vil_tracker.models.network import ViLTrackerNet, build_network
from vil_tracker.models.pretrained import load_model

SMALL = ModelConfig(dim=64, depth=4, template_size=64, search_size=128, modulation_interval=2, head_channels=32)


def _scrambled(network: ViLTrackerNet) -> ViLTrackerNet:
    """No parameter at a special value, so that a copy in the wrong place shows."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def _maps(network: ViLTrackerNet, context: bool) -> list[torch.Tensor]:
    config, generator = network.config, torch.Generator().manual_seed(1)
    template = torch.randn(2, 1, 3, config.template_size, config.template_size, generator=generator)
    search = torch.randn(2, 3, config.search_size, config.search_size, generator=generator)
    boxes = torch.tensor([0.25, 0.25, 0.75, 0.75]).expand(2, 1, 4)
    side = config.search_size // config.patch_size
    crops = torch.tensor([[0.0, 0.0, 1.0]]).expand(2, 3)
    features = torch.randn(2, side * side, config.dim, generator=generator)
    seen = TemporalContext(features, torch.ones(2, side * side, 1), (side, side), crops) if context else None
    with torch.no_grad():
        joint = network(template, boxes, search, seen)
        cached = network.forward_search(search, network.encode_templates(template, boxes), seen)
    return [*joint[:4], *cached[:4]]


@pytest.mark.parametrize("context", [False, True])
def test_grown_network_gives_the_same_maps(context: bool) -> None:
    small = _scrambled(build_network(SMALL))
    grown = grow_network(small, dataclasses.replace(SMALL, depth=8)).eval()
    assert len(grown.backbone.sublayers) == 8
    assert [layer.reverse for layer in grown.backbone.sublayers] == [False, True] * 4
    for ours, theirs in zip(_maps(grown, context), _maps(small, context), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_nano_grown_to_24_sublayers_gives_its_maps() -> None:
    small = load_model("nano", "cpu")
    grown = grow_network(small, dataclasses.replace(small.config, name="tiny", depth=24)).eval()
    assert grown.temporal is not None
    assert len(grown.temporal.film_layers) == 4
    for ours, theirs in zip(_maps(grown, True), _maps(small, True), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_copies_learn() -> None:
    grown = grow_network(_scrambled(build_network(SMALL)), dataclasses.replace(SMALL, depth=8))
    output = grown(torch.randn(1, 1, 3, 64, 64), torch.tensor([[[0.2, 0.2, 0.8, 0.8]]]), torch.randn(1, 3, 128, 128))
    output.score_logits.square().mean().backward()
    for index in (2, 3, 6, 7):
        gradient = grown.backbone.sublayers[index].layer.proj_down.weight.grad
        assert gradient is not None
        assert gradient.abs().max() > 0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"depth": 6}, "model.depth"),
        ({"depth": 8, "dim": 96}, "model.dim"),
        ({"depth": 8, "stem": "conv"}, "model.stem"),
    ],
)
def test_another_architecture_is_refused(change: dict, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        grow_network(build_network(SMALL), dataclasses.replace(SMALL, **change))
