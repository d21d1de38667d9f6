"""Growing a network in depth without changing what it computes.

After each pair of sublayers comes a copy of the pair whose output projections are zero, so that it adds nothing at
first; scan directions keep alternating. The function-preserving copy follows Chen et al., "Net2Net" (2016), the
stacking of pairs Gong et al., "Efficient Training of BERT by Progressively Stacking" (2019).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from vil_tracker.config import ModelConfig
from vil_tracker.errors import UserError
from vil_tracker.models.network import ViLTrackerNet, build_network
from vil_tracker.models.vil import resize_grid

FREE_KEYS = ("name", "depth", "template_size", "search_size", "drop_path")
POSITIONS = {"backbone.pos_embed.embed": "search_size", "template_pos_embed.embed": "template_size"}


def grow_network(small: ViLTrackerNet, config: ModelConfig) -> ViLTrackerNet:
    """A network of twice the depth that gives the maps of ``small``, which stays as it is.

    FiLM layers move along with the sublayer that they follow; new ones start as the identity. Position embeddings are
    resized where the crops differ in size. UserError where ``config`` differs in more than the depth, name, sizes of
    crops and drop path.
    """
    check_growth(small.config, config)
    grown = build_network(config)
    source = small.state_dict()
    state: dict[str, Tensor] = {}
    for name, fresh in grown.state_dict().items():
        origin, copied = _origin(name)
        value = fresh if origin is None else source[origin].clone()
        if copied and ".proj_down." in name:
            value = torch.zeros_like(value)
        if name in POSITIONS and value.shape != fresh.shape:
            value = resize_grid(value.float(), (fresh.shape[1], fresh.shape[2]))
        state[name] = value
    grown.load_state_dict(state)
    return grown


def check_growth(small: ModelConfig, grown: ModelConfig) -> None:
    """Raise UserError unless ``grown`` is ``small`` at twice the depth."""
    if grown.depth != 2 * small.depth or small.depth % 2:
        raise UserError(f"model.depth is {grown.depth}, expected {2 * small.depth}: twice that of train.grow_from")
    if grown.temporal and (small.depth % grown.modulation_interval or grown.modulation_interval % 2):
        raise UserError(
            f"model.modulation_interval is {grown.modulation_interval}, expected an even divisor of {small.depth}"
        )
    for field in dataclasses.fields(ModelConfig):
        ours, theirs = getattr(grown, field.name), getattr(small, field.name)
        if field.name not in FREE_KEYS and ours != theirs:
            raise UserError(f"model.{field.name} is {ours!r}, but train.grow_from has {theirs!r}: growth keeps it")


def _origin(name: str) -> tuple[str | None, bool]:
    """The parameter of the small network that one of the grown network starts from, and whether it is of a copy.

    None for a FiLM layer that the small network does not have.
    """
    parts = name.split(".")
    if name.startswith("backbone.sublayers."):
        pair, place = divmod(int(parts[2]), 4)
        parts[2] = str(2 * pair + place % 2)
        return ".".join(parts), place >= 2
    if name.startswith("temporal.film_layers."):
        index = int(parts[2])
        parts[2] = str(index // 2)
        return (".".join(parts) if index % 2 else None), False
    return name, False
