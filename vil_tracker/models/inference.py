"""The network prepared for inference: the same function, with all that depends on the weights alone done once.

The sublayers are those of :mod:`vil_tracker.models.inference_sublayer`; besides, position and type embeddings are one
tensor per grid, both nets of a FiLM layer share their first map, the head's three towers are one tower of groups, and
convolution weights lie in oneDNN's own layout. The correlation is :mod:`vil_tracker.models.inference_correlation`'s.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vil_tracker.config import ModelConfig
from vil_tracker.errors import UserError
from vil_tracker.models.correlation import SEARCH_CELLS, mean_of_opinions, resized_for_correlation
from vil_tracker.models.film_temporal import TemporalContext, TemporalModulationManager, resize_context
from vil_tracker.models.head import CentreHead, decode_maps
from vil_tracker.models.inference_correlation import FastCorrelation
from vil_tracker.models.inference_kernel import GroupNormGelu
from vil_tracker.models.inference_stem import fast_stem
from vil_tracker.models.inference_sublayer import MAX_DECAY, FastConv, FastLinear, FastSublayer
from vil_tracker.models.network import SEARCH, NetworkOutput, TargetMemory, ViLTrackerNet
from vil_tracker.models.vil import Grid, Memory

Precision = Literal["float32", "bfloat16", "int8"]

if hasattr(os, "register_at_fork"):
    # A forked process has none of OpenMP's threads, and waits for them for ever if it computes with more than one.
    os.register_at_fork(after_in_child=lambda: torch.set_num_threads(1))


@contextlib.contextmanager
def exact_inference(device: torch.device) -> Iterator[None]:
    """Compute without gradients and in the precision that was chosen, whatever autocast the caller is in."""
    with torch.inference_mode(), torch.autocast("cpu", enabled=False), torch.autocast(device.type, enabled=False):
        yield


class SearchModel(Protocol):
    """What a tracking session needs of a model; crops, memories and outputs are tensors of ``io_dtype``."""

    config: ModelConfig
    uses_context: bool
    device: torch.device
    io_dtype: torch.dtype

    @property
    def calibration(self) -> str | None: ...

    def encode_templates(
        self, templates: Tensor, template_boxes: Tensor, memory: TargetMemory | None = None
    ) -> TargetMemory: ...

    def forward_search(
        self, search: Tensor, memory: TargetMemory, context: TemporalContext | None = None
    ) -> NetworkOutput: ...

    def decode(self, output: NetworkOutput, window: Tensor | None = None) -> tuple[Tensor, Tensor]: ...


class Condition(NamedTuple):
    """What the FiLM layers take from a temporal context."""

    #: By the sublayer that a FiLM layer follows, what the last maps of its gamma and its beta net read, (B, S, D / 4).
    hidden: dict[int, tuple[Tensor, Tensor]]
    reliability: Tensor  # (B, S, 1)


class FastModulation:
    """The FiLM layers, by the index of the sublayer that each follows; the first maps of all their nets and of the
    calibrator's are one, the context's projection is folded into it.
    """

    def __init__(self, manager: TemporalModulationManager, dtype: torch.dtype) -> None:
        layers = {index: manager.get_film_layer(index) for index in range(manager.num_blocks)}
        found = {index: film for index, film in layers.items() if film is not None}
        self.films: dict[int, tuple[FastLinear, FastLinear]] = {}
        for index, film in found.items():
            gamma, beta = _linears(film.gamma_net)[-1], _linears(film.beta_net)[-1]
            maps = FastLinear(gamma.weight, gamma.bias - 1, dtype), FastLinear(beta.weight, beta.bias, dtype)
            self.films[index] = maps
        nets = [net for film in found.values() for net in (film.gamma_net, film.beta_net)]
        first = [_linears(net)[0] for net in (*nets, manager.reliability.net)]
        weight, bias = torch.cat([layer.weight for layer in first]), torch.cat([layer.bias for layer in first])
        project = manager.context_proj
        folded = weight.double() @ project.weight.double(), weight.double() @ project.bias.double() + bias
        self._first = FastLinear(*folded, dtype)
        last = _linears(manager.reliability.net)[-1]
        self._last = last.weight.to(dtype), last.bias.to(dtype)

    def condition(self, context: TemporalContext, grid: Grid) -> Condition:
        """For the tokens of ``grid``, from a context that lies in the current crop."""
        context = resize_context(context, grid)
        hidden = F.gelu(self._first(context.features)).chunk(2 * len(self.films) + 1, dim=-1)
        reliability = F.linear(hidden[-1], *self._last).sigmoid_() * context.valid.to(hidden[-1])
        return Condition(
            dict(zip(self.films, zip(hidden[0:-1:2], hidden[1:-1:2], strict=True), strict=True)), reliability
        )

    def modulate(self, x: Tensor, index: int, condition: Condition) -> Tensor:
        """x + reliability · ((gamma - 1) x + beta) after the sublayer of this index, if it has a FiLM layer."""
        if index not in self.films:
            return x
        (gamma, beta), (for_gamma, for_beta) = self.films[index], condition.hidden[index]
        return torch.addcmul(x, beta(for_beta).addcmul_(gamma(for_gamma), x), condition.reliability)


def _linears(net: nn.Module) -> list[nn.Linear]:
    return [layer for layer in net.children() if isinstance(layer, nn.Linear)]


class FastHead:
    """The three towers of :class:`CentreHead` as one tower with three groups."""

    def __init__(self, head: CentreHead, dtype: torch.dtype, *, kernel: bool) -> None:
        self.stages: list[Callable[[Tensor], Tensor]] = []
        towers = (head.score, head.offset, head.size)
        for index in range(len(head.score)):
            layers: list[Any] = [tower[index] for tower in towers]
            if isinstance(layers[0], nn.GroupNorm):
                self.stages.append(GroupNormGelu(layers, dtype, kernel=kernel))
            elif not isinstance(layers[0], nn.Conv2d):
                continue  # the GELU behind a norm
            elif layers[0].kernel_size == (1, 1):
                weight = torch.block_diag(*(layer.weight.flatten(1) for layer in layers))[..., None, None]
                self.stages.append(FastConv(weight.to(dtype), torch.cat([layer.bias for layer in layers]).to(dtype)))
            else:  # the first ones read the same features, the others their own tower's
                weight = torch.cat([layer.weight for layer in layers]).to(dtype)
                self.stages.append(FastConv(weight, None, padding=1, groups=1 if index == 0 else len(towers)))

    def __call__(self, features_BDHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        for stage in self.stages:
            features_BDHW = stage(features_BDHW)
        maps = features_BDHW.to(torch.promote_types(features_BDHW.dtype, torch.float32))
        score, offset, size = maps.split([1, 2, 2], dim=1)
        return score, offset.sigmoid(), size.sigmoid()


def is_bounded(steepest: list[Tensor]) -> bool:
    """Whether no sublayer's decay over a chunk exceeds :data:`MAX_DECAY`; waits for the device once."""
    return torch.stack(steepest).amax().item() <= MAX_DECAY


class InferenceNetwork:
    """What a tracking session calls, for a network in evaluation mode whose weights stand still.

    Everything that goes in and comes out is ``io_dtype``, float32 (float64 for a float64 network). ``dtype`` is that of
    the stem, the projections, the convolutions and the head, and of the factors of the cell's products where the
    processor multiplies bfloat16. Residuals, norms, gates, decays and all sums stay in float32.

    Args:
        precision: "float32" is the weights' own; "int8" quantises the projections and leaves the rest; UserError where
            that is not on a CPU.
        compiled: let torch.compile make programs of the sublayers, at the first frame of each crop and batch size.
        kernel: let C++ programs run what lies between their projections and the norms, on a CPU that has a compiler.
    """

    def __init__(
        self, network: ViLTrackerNet, precision: Precision = "float32", *, compiled: bool = False, kernel: bool = True
    ) -> None:
        parameter = next(network.parameters())
        self.device = parameter.device
        self.precision = precision
        self.config, self.uses_context = network.config, network.temporal is not None
        self._make = functools.partial(InferenceNetwork, precision=precision, compiled=compiled, kernel=kernel)
        self.io_dtype = torch.promote_types(parameter.dtype, torch.float32)
        self.dtype = torch.bfloat16 if precision == "bfloat16" else parameter.dtype
        self._network = network
        self._embeddings: dict[Grid, Tensor] = {}
        int8 = precision == "int8"
        if int8 and self.device.type != "cpu":
            raise UserError(f"int8 runs on a CPU only, not on {self.device}: use --device cpu, or bfloat16")
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            backbone = network.backbone
            kernel = kernel and not compiled
            self._stem = fast_stem(backbone.patch_embed, self.dtype, kernel=kernel)
            sublayers: list[Any] = list(backbone.sublayers)
            self.sublayers = [FastSublayer(sublayer, self.dtype, int8, kernel=kernel) for sublayer in sublayers]
            self._gain, self._shift = (1 + backbone.norm.weight).to(self.io_dtype), backbone.norm.bias.to(self.io_dtype)
            self._norm_eps = backbone.norm.eps
            self._head = FastHead(network.head, self.dtype, kernel=kernel)
            branch, stem = network.correlation, backbone.patch_embed
            self._correlation = None if branch is None else FastCorrelation(branch, stem, kernel=kernel)
            manager = network.temporal
            self.modulation = None if manager is None else FastModulation(manager, self.io_dtype)
        # One program for even and one for odd sublayers, whose weights are its inputs.
        self._compiled = torch.compile(FastSublayer.bounded, dynamic=False) if compiled else None

    def __reduce__(self) -> tuple[object, ...]:
        """Copies and pickles hold the network alone, of which the rest is made."""
        return self._make, (self._network,)

    @property
    def calibration(self) -> str | None:
        return self._network.calibration

    @torch.no_grad()
    def encode_templates(
        self, templates: Tensor, template_boxes: Tensor, memory: TargetMemory | None = None
    ) -> TargetMemory:
        """As :meth:`ViLTrackerNet.encode_templates`, which does it: once per video, in the weights' own precision."""
        return self._network.encode_templates(templates, template_boxes, memory)

    @torch.no_grad()
    def forward_search(
        self, search: Tensor, memory: TargetMemory, context: TemporalContext | None = None
    ) -> NetworkOutput:
        grid = self._grid(search)
        condition = None if context is None else self.condition(context, grid)
        x_BSD = self._scan(self.embed(search), grid, memory.states, condition)
        x_BSD = F.layer_norm(x_BSD, x_BSD.shape[-1:], self._gain, self._shift, self._norm_eps)
        return self.with_opinion(self.predict(x_BSD, grid), search, memory.features)

    def _scan(self, x_BSD: Tensor, grid: Grid, memory: Memory, condition: Condition | None) -> Tensor:
        """All sublayers, with the temporal modulation behind some of them."""
        steepest: list[Tensor] = []
        bounded = self._compiled
        if bounded is None and x_BSD.device.type != "cpu":  # where each sublayer's own check would wait for the device
            bounded = FastSublayer.bounded

        def scan(bounded: Callable[..., tuple[Tensor, Tensor]] | None) -> Tensor:
            x = x_BSD
            for index, (sublayer, state) in enumerate(zip(self.sublayers, memory, strict=True)):
                if bounded is None:
                    x = sublayer(x, grid, state)
                else:
                    x, exponent = bounded(sublayer, x, grid, state)
                    steepest.append(exponent)
                if condition is not None and self.modulation is not None:
                    x = self.modulation.modulate(x, index, condition)
            return x

        if bounded is not None:
            y_BSD = scan(bounded)
            if is_bounded(steepest):
                return y_BSD  # else a decay is too strong for this form
        return scan(None)

    def decode(self, output: NetworkOutput, window: Tensor | None = None) -> tuple[Tensor, Tensor]:
        return decode_maps(output.score_logits, output.offset, output.size, window)

    @torch.no_grad()
    def embed(self, search: Tensor) -> Tensor:
        """Tokens (B, S, D) of search crops: the first part of a frame."""
        tokens = rearrange(self._stem(search.to(self.dtype)), "b d r c -> b (r c) d")
        return tokens + self._embedding(self._grid(search))  # the embedding's dtype is the wider

    @torch.no_grad()
    def predict(self, features: Tensor, grid: Grid) -> NetworkOutput:
        """Maps from final tokens (B, S, D): the last part of a frame."""
        maps = self._head(rearrange(features.to(self.dtype), "b (r c) d -> b d r c", r=grid[0]))
        return NetworkOutput(*maps, features.to(self.io_dtype))

    @torch.no_grad()
    def with_opinion(self, output: NetworkOutput, search: Tensor, template: Tensor | None) -> NetworkOutput:
        """The maps averaged with the correlation's of the network's own precision, where it has one."""
        if self._correlation is None or template is None:
            return output
        crops = resized_for_correlation(search, self.config.search_size, SEARCH_CELLS)
        opinion = self._correlation(template, crops, self._grid(search))
        score, offset, size, tokens = output
        return NetworkOutput(*mean_of_opinions(score, offset, size, opinion, self.config.correlation), tokens)

    @torch.no_grad()
    def condition(self, context: TemporalContext, grid: Grid) -> Condition | None:
        """What the FiLM layers take from a context, or None for a network without them."""
        return None if self.modulation is None else self.modulation.condition(context, grid)

    def _grid(self, search: Tensor) -> Grid:
        return search.shape[2] // self.config.patch_size, search.shape[3] // self.config.patch_size

    def _embedding(self, grid: Grid) -> Tensor:
        """Position and type of the search tokens, (1, S, D)."""
        if grid not in self._embeddings:
            network = self._network
            embedding = network.backbone.pos_embed(grid) + network.type_embed[SEARCH]
            self._embeddings[grid] = embedding.to(self.io_dtype).contiguous()
        return self._embeddings[grid]


# What prepare_for_inference made of a network, while somebody uses it, and of which state of the weights.
_prepared: weakref.WeakKeyDictionary[ViLTrackerNet, tuple[object, weakref.ref[InferenceNetwork]]]
_prepared = weakref.WeakKeyDictionary()


def prepare_for_inference(network: ViLTrackerNet) -> InferenceNetwork:
    """The network as :class:`InferenceNetwork` in its own precision.

    Asked again with the same weights, it gives the object that is in use, so that trackers of one network share it.
    """
    weights = tuple(
        (parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version)
        for parameter in network.parameters()
    )
    known, reference = _prepared.get(network, (None, None))
    prepared = reference() if reference is not None and known == weights else None
    if prepared is None:
        half = next(network.parameters()).dtype in (torch.float16, torch.bfloat16)
        # The template is encoded in the weights' own precision, for which half of float32 is too little.
        prepared = InferenceNetwork(copy.deepcopy(network).float().eval() if half else network.eval())
        _prepared[network] = (weights, weakref.ref(prepared))
    return prepared
