"""A frame's network part by part: milliseconds, operations counted by hand, share of the machine's matmul rate.

Operations are those that the equations ask for, two for a multiply-add: block-diagonal maps count their 4×4 blocks,
though they run as larger ones; norms, gates and activations count nothing. So a share of the matmul rate below 1 holds
all that the form of the computation costs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from vil_tracker.benchmarking.machine import time_interleaved
from vil_tracker.models.correlation import TEMPLATE_CELLS
from vil_tracker.models.film_temporal import TemporalContext, updated_context
from vil_tracker.models.inference import InferenceNetwork
from vil_tracker.models.inference_sublayer import FastSublayer, chunk_length
from vil_tracker.models.mlstm import MLSTMState
from vil_tracker.models.network import NetworkOutput, TargetMemory, ViLTrackerNet
from vil_tracker.models.stem import MOBILE_CHANNELS
from vil_tracker.models.vil import BLOCK, HEADS, Grid

KERNEL = "between the projections"  # convolution, q, k, v, cell, norms and gates as one program


@dataclass(frozen=True)
class FrameInputs:
    """What one frame takes: crop (1, 3, H, W), memory of so many templates, context."""

    search: Tensor
    memory: TargetMemory
    context: TemporalContext | None


def frame_inputs(network: InferenceNetwork, templates: int = 1, batch: int = 1, side: int | None = None) -> FrameInputs:
    """Random inputs; their values do not matter for the time."""
    config = network.config
    kind: dict[str, Any] = {"device": network.device, "dtype": network.io_dtype}
    size, search_side = config.template_size, side or config.search_size
    crops = torch.randn(1, templates, 3, size, size, **kind)
    boxes = torch.tensor([0.25, 0.25, 0.75, 0.75], **kind).expand(1, templates, 4)
    memory = network.encode_templates(crops, boxes)
    states = tuple(type(state)(*(part.expand(batch, *part.shape[1:]) for part in state)) for state in memory.states)
    features = None if memory.features is None else memory.features.expand(batch, -1, -1, -1)
    grid = (search_side // config.patch_size,) * 2
    context = None
    if network.uses_context:
        tokens = torch.randn(batch, grid[0] * grid[1], config.dim, **kind)
        context = updated_context(None, tokens, grid, torch.tensor([[50.0, 50.0, 40.0]] * batch, **kind))
    search = torch.randn(batch, 3, search_side, search_side, **kind)
    return FrameInputs(search, TargetMemory(states, features), context)


def count_operations(network: ViLTrackerNet, kernel: bool = False) -> dict[str, float]:
    """Floating-point operations of one frame by part; with ``kernel``, what the C++ program runs is one part."""
    config = network.config
    side = config.search_size // config.patch_size
    S, D, E = side**2, config.dim, 2 * config.dim
    K, L = E // HEADS, chunk_length(side**2) or side**2
    films = len(network.temporal.film_layers) if network.temporal is not None else 0
    image = torch.zeros(1, 3, config.search_size, config.search_size)
    features = torch.zeros(1, D, side, side)
    inside = {
        "convolution": config.depth * 2.0 * S * E * 9,
        "q, k, v": config.depth * 2.0 * S * E * 3 * BLOCK,
        # pairs inside chunks (half a square), queries of the memory, and the memory carried from chunk to chunk
        "cell": config.depth * 2.0 * (S * L * E + S * E * K + (S - L) * E * K),
    }
    return {
        "stem": _convolution_operations(network.backbone.patch_embed, image),
        "projections": config.depth * 2.0 * S * D * 3 * E,
        **({KERNEL: sum(inside.values())} if kernel else inside),
        "modulation": films * 2.0 * S * D * D + (2.0 * S * D * D * 1.25 if films else 0.0),
        "head": _convolution_operations(network.head, features),
        **({} if network.correlation is None else {"correlation": _correlation_operations(network, image, features)}),
    }


def count_bytes(network: ViLTrackerNet, precision: str) -> float:
    """Bytes that one frame cannot avoid to read: its weights, and the memory of the template."""
    width = {"float32": 4, "bfloat16": 2, "int8": 1}[precision]
    config = network.config
    E = 2 * config.dim
    K = E // HEADS
    weights = sum(parameter.numel() for parameter in network.parameters())
    return float(weights * width + config.depth * HEADS * (K * K + K + 1) * 4)


def _convolution_operations(module: nn.Module, image: Tensor) -> float:
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        module(image.to(next(module.parameters())))
    return float(counter.get_total_flops())


def _correlation_operations(network: ViLTrackerNet, image: Tensor, features: Tensor) -> float:
    """With the stem's pass over the crop at the correlation's own size."""
    image, features = (tensor.to(next(network.parameters())) for tensor in (image, features))
    maps = NetworkOutput(features[:, :1], features[:, :2], features[:, :2], features)
    template = image.new_zeros(1, MOBILE_CHANNELS, TEMPLATE_CELLS, TEMPLATE_CELLS)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network.with_opinion(maps, image, template)
    return float(counter.get_total_flops())


def time_parts(
    network: InferenceNetwork, repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """Seconds of each part of a frame, and of the whole ``frame``; all sublayers together.

    Where the C++ program runs what lies between the projections, that is one part. ``norms, gates`` is what is left of
    the sublayers: norms, gates, activations, sums and the way between the parts.
    """
    inputs = frame_inputs(network)
    config = network.config
    side = config.search_size // config.patch_size
    grid, S = (side, side), side**2
    kind: dict[str, Any] = {"device": network.device, "dtype": network.io_dtype}
    x = torch.randn(1, S, config.dim, **kind)
    layers = list(zip(network.sublayers, inputs.memory.states, strict=True))

    def sublayers() -> None:
        y = x
        for layer, state in layers:
            y = layer(y, grid, state)

    def modulation() -> None:
        condition = None if inputs.context is None else network.condition(inputs.context, grid)
        if condition is not None and network.modulation is not None:
            for index in network.modulation.films:
                network.modulation.modulate(x, index, condition)

    inside = (_kernel_parts if network.sublayers[0].kernel is not None else _operator_parts)(network, x, grid, layers)
    functions: dict[str, Callable[[], object]] = {
        "frame": lambda: network.decode(network.forward_search(inputs.search, inputs.memory, inputs.context)),
        "stem": lambda: network.embed(inputs.search),
        "sublayers": sublayers,
        **inside,
        "modulation": modulation,
        "head": lambda: network.predict(x, grid),
    }
    if network.config.correlation:
        maps = network.predict(x, grid)
        functions["correlation"] = lambda: network.with_opinion(maps, inputs.search, inputs.memory.features)
    with torch.inference_mode():
        seconds = time_interleaved(functions, repeats, network.device, clock)
    seconds["norms, gates"] = max(seconds["sublayers"] - sum(seconds[name] for name in inside), 0.0)
    return seconds


Layers = list[tuple[FastSublayer, MLSTMState]]


def _kernel_parts(network: InferenceNetwork, x: Tensor, grid: Grid, layers: Layers) -> dict[str, Callable[[], object]]:
    xm_and_z = torch.randn(1, x.shape[1], 4 * x.shape[2]).to(network.dtype)
    y = torch.randn(1, x.shape[1], 2 * x.shape[2]).to(network.dtype)

    def projections() -> None:
        for layer, _ in layers:
            layer.up(x), layer.down.add_to(x, y)

    def kernel() -> None:
        for layer, state in layers:
            assert layer.kernel is not None
            layer.kernel(xm_and_z, grid, state)

    return {"projections": projections, KERNEL: kernel}


def _operator_parts(
    network: InferenceNetwork, x: Tensor, grid: Grid, layers: Layers
) -> dict[str, Callable[[], object]]:
    S, E = x.shape[1], 2 * x.shape[2]
    xm = torch.randn(1, S, E, device=x.device, dtype=x.dtype)
    a = F.silu(xm)
    image = rearrange(xm.to(network.dtype), "b (r c) e -> b e r c", r=grid[0])

    def projections() -> None:
        for layer, _ in layers:
            layer.up_x(x), layer.up_z(x), layer.down(xm)

    def convolution() -> None:
        for layer, _ in layers:
            layer.conv(image)

    def maps() -> None:
        for layer, _ in layers:
            layer.map_heads(a, layer.q), layer.map_heads(a, layer.k), layer.map_heads(xm, layer.v)

    length = chunk_length(S)
    prepared = []
    for layer, state in layers:
        gates = layer.gates(a, xm)
        scales = layer.scales(*gates, state.m.to(layer.wide), length)[0] if length else None
        q, k, v = layer.map_heads(a, layer.q), layer.map_heads(a, layer.k), layer.map_heads(xm, layer.v)
        prepared.append((layer, state, q, k, v, gates, scales))

    def cell() -> None:
        for layer, state, q, k, v, gates, scales in prepared:
            if scales is None:
                layer.any_decay(q, k, v, *gates, state)
            else:
                layer.chunks(q, k, v, scales, state, length)

    return {"projections": projections, "convolution": convolution, "q, k, v": maps, "cell": cell}
