"""The network prepared for inference: the same function, with all that depends on the weights alone done once.

The sublayers are those of :mod:`vil_tracker.models.inference_sublayer`; besides, position and type embeddings are one
tensor per grid, both nets of a FiLM layer share their first map, the head's three towers are one tower of groups, and
convolution weights lie in oneDNN's own layout.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vil_tracker.config import ModelConfig
from vil_tracker.errors import UserError
from vil_tracker.models.film_temporal import (
    FiLMTemporalModulation,
    TemporalContext,
    resize_context,
    updated_context,
)
from vil_tracker.models.head import CentreHead, decode_maps
from vil_tracker.models.inference_sublayer import MAX_DECAY, FastConv, FastSublayer
from vil_tracker.models.mlstm import MLSTMState
from vil_tracker.models.network import SEARCH, NetworkOutput, ViLTrackerNet
from vil_tracker.models.vil import ConvStem, Grid, Memory

Precision = Literal["float32", "bfloat16", "int8"]


class SearchModel(Protocol):
    """What a tracking session needs of a model; crops, memories and outputs are tensors of ``io_dtype``."""

    @property
    def config(self) -> ModelConfig: ...

    @property
    def calibration(self) -> str | None: ...

    @property
    def uses_context(self) -> bool: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def io_dtype(self) -> torch.dtype: ...

    def encode_templates(self, templates: Tensor, template_boxes: Tensor, memory: Memory | None = None) -> Memory: ...

    def forward_search(
        self, search: Tensor, memory: Memory, context: TemporalContext | None = None
    ) -> NetworkOutput: ...

    def decode(self, output: NetworkOutput, window: Tensor | None = None) -> tuple[Tensor, Tensor]: ...


class FastFiLM:
    """x + reliability · ((gamma - 1) x + beta), with both nets' first maps as one."""

    def __init__(self, film: FiLMTemporalModulation, dtype: torch.dtype) -> None:
        maps = [layer for net in (film.gamma_net, film.beta_net) for layer in net if isinstance(layer, nn.Linear)]
        gamma_first, gamma_last, beta_first, beta_last = maps
        self.weight = torch.cat([gamma_first.weight, beta_first.weight]).to(dtype)
        self.bias = torch.cat([gamma_first.bias, beta_first.bias]).to(dtype)
        self.gamma, self.gamma_bias = gamma_last.weight.to(dtype), (gamma_last.bias - 1).to(dtype)
        self.beta, self.beta_bias = beta_last.weight.to(dtype), beta_last.bias.to(dtype)

    def __call__(self, x: Tensor, context: Tensor, reliability: Tensor) -> Tensor:
        for_gamma, for_beta = F.gelu(F.linear(context, self.weight, self.bias)).chunk(2, dim=-1)
        change = F.linear(for_beta, self.beta, self.beta_bias)
        change.addcmul_(F.linear(for_gamma, self.gamma, self.gamma_bias), x)
        return torch.addcmul(x, change, reliability)


class FastHead:
    """The three towers of :class:`CentreHead` as one tower with three groups."""

    def __init__(self, head: CentreHead, dtype: torch.dtype) -> None:
        self.stages: list[Callable[[Tensor], Tensor]] = []
        towers = (head.score, head.offset, head.size)
        for index in range(len(head.score)):
            layers: list[Any] = [tower[index] for tower in towers]
            if isinstance(layers[0], nn.GroupNorm):
                self.stages.append(_group_norm(layers, dtype))
            elif not isinstance(layers[0], nn.Conv2d):
                self.stages.append(layers[0])
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


def _group_norm(norms: Sequence[nn.GroupNorm], dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Group norms of neighbouring channels as one."""
    groups, eps = sum(norm.num_groups for norm in norms), norms[0].eps
    weight = torch.cat([norm.weight for norm in norms]).to(dtype)
    bias = torch.cat([norm.bias for norm in norms]).to(dtype)
    return lambda x: F.group_norm(x, groups, weight, bias, eps)


def _fast_stem(stem: nn.Module, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
    """Image (B, 3, h, w) to a grid of features (B, D, h, w)."""
    layers: list[Any] = list(stem) if isinstance(stem, ConvStem) else [stem.proj]
    stages: list[Callable[[Tensor], Tensor]] = []
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            bias = None if layer.bias is None else layer.bias.to(dtype)
            stages.append(FastConv(layer.weight.to(dtype), bias, stride=layer.stride[0], padding=int(layer.padding[0])))
        elif isinstance(layer, nn.GroupNorm):
            stages.append(_group_norm([layer], dtype))
        else:
            stages.append(layer)

    def run(image: Tensor) -> Tensor:
        image = image.contiguous(memory_format=torch.channels_last)
        for stage in stages:
            image = stage(image)
        return image

    return run


class InferenceNetwork:
    """What a tracking session calls, for a network whose weights stand still.

    Everything that goes in and comes out is float32 (float64 for a float64 network). ``dtype`` is that of the stem, the
    projections, the convolutions and the head, and of the factors of the cell's products where the processor
    multiplies bfloat16. Residuals, norms, gates, decays and all sums stay in float32.

    Args:
        network: in evaluation mode; its weights are copied where they are folded.
        precision: "float32" is the weights' own; "int8" quantises the projections and leaves the rest, on a CPU.
        compiled: let torch.compile make programs of the sublayers, at the first frame of each crop and batch size.
        kernel: let the C++ program run what lies between their projections, on a CPU where it can be compiled.

    Attributes:
        device: where it computes.
        io_dtype: of crops, memories and outputs.

    Raises:
        UserError: int8 somewhere else than on a CPU.
    """

    def __init__(
        self, network: ViLTrackerNet, precision: Precision = "float32", *, compiled: bool = False, kernel: bool = True
    ) -> None:
        parameter = next(network.parameters())
        self.device = parameter.device
        self.precision = precision
        self.io_dtype = torch.promote_types(parameter.dtype, torch.float32)
        self.dtype = torch.bfloat16 if precision == "bfloat16" else parameter.dtype
        self._network = network
        self._embeddings: dict[Grid, Tensor] = {}
        int8 = precision == "int8"
        if int8 and self.device.type != "cpu":
            raise UserError(f"int8 runs on a CPU only, not on {self.device}: use --device cpu, or bfloat16")
        with torch.no_grad():
            backbone = network.backbone
            self._stem = _fast_stem(backbone.patch_embed, self.dtype)
            sublayers: list[Any] = list(backbone.sublayers)
            kernel = kernel and not compiled
            self.sublayers = [FastSublayer(sublayer, self.dtype, int8, kernel=kernel) for sublayer in sublayers]
            self._gain, self._shift = (1 + backbone.norm.weight).to(self.io_dtype), backbone.norm.bias.to(self.io_dtype)
            self._norm_eps = backbone.norm.eps
            self._head = FastHead(network.head, self.dtype)
            self.films: dict[int, FastFiLM] = {}
            for index in range(network.config.depth):
                film = network.temporal.get_film_layer(index) if network.temporal is not None else None
                if film is not None:
                    self.films[index] = FastFiLM(film, self.io_dtype)
        # One program for even and one for odd sublayers, whose weights are its inputs.
        self._compiled = torch.compile(FastSublayer.bounded, dynamic=False) if compiled else None

    @property
    def config(self) -> ModelConfig:
        """The network's configuration."""
        return self._network.config

    @property
    def uses_context(self) -> bool:
        """Whether the network has a temporal modulation."""
        return self._network.temporal is not None

    @property
    def calibration(self) -> str | None:
        """The network's calibration."""
        return self._network.calibration

    @torch.no_grad()
    def encode_templates(self, templates: Tensor, template_boxes: Tensor, memory: Memory | None = None) -> Memory:
        """As :meth:`ViLTrackerNet.encode_templates`, which does it: once per video, in the weights' own precision."""
        return self._network.encode_templates(templates, template_boxes, memory)

    @torch.no_grad()
    def forward_search(self, search: Tensor, memory: Memory, context: TemporalContext | None = None) -> NetworkOutput:
        """As :meth:`ViLTrackerNet.forward_search`."""
        grid = self._grid(search)
        condition = None if context is None else self.condition(context, grid)
        maps_and_features = self._frame(search.to(self.dtype), self._embedding(grid), memory, condition)
        return NetworkOutput(*maps_and_features, None)

    def _frame(
        self, search: Tensor, embedding: Tensor, memory: Memory, condition: tuple[Tensor, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x_BSD, grid = self._tokens(search, embedding), self._grid(search)
        x_BSD = self._scan(x_BSD, grid, memory, condition)
        x_BSD = F.layer_norm(x_BSD, x_BSD.shape[-1:], self._gain, self._shift, self._norm_eps)
        return (*self._maps(x_BSD, grid), x_BSD)

    def _scan(self, x_BSD: Tensor, grid: Grid, memory: Memory, condition: tuple[Tensor, Tensor] | None) -> Tensor:
        """All sublayers, with the temporal modulation behind some of them."""
        steepest: list[Tensor] = []

        def compiled(sublayer: FastSublayer, x: Tensor, state: MLSTMState) -> Tensor:
            assert self._compiled is not None
            x, exponent = self._compiled(sublayer, x, grid, state)
            steepest.append(exponent)
            return x

        def scan(run: Callable[[FastSublayer, Tensor, MLSTMState], Tensor]) -> Tensor:
            x = x_BSD
            for index, (sublayer, state) in enumerate(zip(self.sublayers, memory, strict=True)):
                x = run(sublayer, x, state)
                if condition is not None and (film := self.films.get(index)) is not None:
                    x = film(x, *condition)
            return x

        if self._compiled is not None:
            y_BSD = scan(compiled)
            if torch.stack(steepest).amax().item() <= MAX_DECAY:
                return y_BSD  # else a decay is too strong for the compiled form
        return scan(lambda sublayer, x, state: sublayer(x, grid, state))

    def decode(self, output: NetworkOutput, window: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """As :meth:`ViLTrackerNet.decode`."""
        return decode_maps(output.score_logits, output.offset, output.size, window)

    @torch.no_grad()
    def embed(self, search: Tensor) -> Tensor:
        """Tokens (B, S, D) of search crops: the first part of a frame."""
        return self._tokens(search.to(self.dtype), self._embedding(self._grid(search)))

    @torch.no_grad()
    def predict(self, features: Tensor, grid: Grid) -> NetworkOutput:
        """Maps from final tokens (B, S, D): the last part of a frame."""
        return NetworkOutput(*self._maps(features, grid), features.to(self.io_dtype), None)

    @torch.no_grad()
    def condition(self, context: TemporalContext, grid: Grid) -> tuple[Tensor, Tensor] | None:
        """What the FiLM layers take from a context, or None for a network without them."""
        if self._network.temporal is None:
            return None
        features, reliability = self._network.temporal.condition(resize_context(context, grid), grid)
        return features.to(self.io_dtype), reliability.to(self.io_dtype)

    def _grid(self, search: Tensor) -> Grid:
        return search.shape[2] // self.config.patch_size, search.shape[3] // self.config.patch_size

    def _tokens(self, search: Tensor, embedding: Tensor) -> Tensor:
        return rearrange(self._stem(search), "b d r c -> b (r c) d") + embedding  # the embedding's dtype is the wider

    def _maps(self, features: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
        return self._head(rearrange(features.to(self.dtype), "b (r c) d -> b d r c", r=grid[0]))

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
    weights = tuple((parameter.data_ptr(), parameter._version) for parameter in network.parameters())
    known, reference = _prepared.get(network, (None, None))
    prepared = reference() if reference is not None and known == weights else None
    if prepared is None:
        prepared = InferenceNetwork(network.eval())
        _prepared[network] = (weights, weakref.ref(prepared))
    return prepared


@torch.inference_mode()
def warm_up(network: InferenceNetwork) -> None:
    """Run a frame without and one with a context, so that whatever happens at the first ones has happened."""
    config = network.config
    side = config.search_size // config.patch_size
    crops = torch.zeros(1, 1, 3, config.template_size, config.template_size, device=network.device)
    boxes = torch.tensor([[[0.25, 0.25, 0.75, 0.75]]], device=network.device)
    memory = network.encode_templates(crops.to(network.io_dtype), boxes.to(network.io_dtype))
    search = torch.zeros(1, 3, config.search_size, config.search_size, device=network.device, dtype=network.io_dtype)
    features = network.forward_search(search, memory).features
    if network.uses_context:
        context = updated_context(None, features, (side, side), torch.tensor([[0.0, 0.0, 1.0]], device=network.device))
        network.forward_search(search, memory, context)
