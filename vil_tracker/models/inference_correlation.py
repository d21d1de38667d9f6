"""The correlation prepared for inference: the same function, with both towers as one of two groups, and with 1 × 1
convolutions that follow each other without a nonlinearity between them as one.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vil_tracker.models.correlation import KERNEL, TEMPLATE_CELLS, CorrelationBranch, opinion_on_cells
from vil_tracker.models.inference_stem import fast_stem
from vil_tracker.models.inference_sublayer import FastConv
from vil_tracker.models.stem import MOBILE_CHANNELS, MobileStem
from vil_tracker.models.vil import Grid

C, K = MOBILE_CHANNELS, TEMPLATE_CELLS**2
Map = tuple[Tensor, Tensor]  # weight (outputs, inputs) and bias (outputs,) of a 1 × 1 convolution


class FastCorrelation:
    """:class:`CorrelationBranch` on search crops instead of their features, in the dtype of its weights."""

    def __init__(self, branch: CorrelationBranch, stem: nn.Module, *, kernel: bool) -> None:
        towers = branch.score, branch.box
        pixels, depths = [tower.pixel for tower in towers], [tower.depth for tower in towers]
        self._template = _stacked(
            [*(_map(pixel.template) for pixel in pixels), *(_map(depth.template) for depth in depths)]
        )
        # All that is made of the search region begins with a map of the stem's features, so that is its projection.
        stem = copy.deepcopy(stem)
        assert isinstance(stem, MobileStem)
        stem.proj = _convolution(
            _stacked([*(_map(pixel.search) for pixel in pixels), *(_map(depth.search) for depth in depths)])
        )
        self._stem = fast_stem(stem, stem.proj.weight.dtype, kernel=kernel)
        self._squeeze = _diagonal([_map(pixel.squeeze) for pixel in pixels])
        self._excite = _diagonal([_map(pixel.excite) for pixel in pixels])
        self._answers = _channelwise([pixel.depthwise for pixel in pixels])

        joins = [_map(tower.join) for tower in towers]
        of_answers = [_after(_map(p.project), (join[0][:, :K], join[1])) for p, join in zip(pixels, joins, strict=True)]
        of_channels = [weight[:, K:] for weight, _ in joins]
        self._join = _stacked(
            [(torch.cat([m[0], w], dim=1), m[1]) for m, w in zip(of_answers, of_channels, strict=True)]
        )

        layers = [[layer for layer in tower.tower if isinstance(layer, nn.Conv2d)] for tower in towers]
        maps = [[_map(layer) for layer in tower[1::2]] for tower in layers]
        weight, bias = _map(branch.score.predict)
        # Of background and target, their difference; filled up to as many outputs as the box has.
        odds = F.pad(weight[1:] - weight[:1], (0, 0, 0, 3)), F.pad(bias[1:] - bias[:1], (0, 3))
        for tower, last in zip(maps, (odds, _map(branch.box.predict)), strict=True):
            tower[-1] = _after(tower[-1], last)
        filters = zip(layers[0][::2], layers[1][::2], strict=True)
        self._tower = [
            (_channelwise(pair), _stacked(both)) for pair, both in zip(filters, zip(*maps, strict=True), strict=True)
        ]

    def __call__(self, template_BCtt: Tensor, crops_B3HW: Tensor, grid: Grid) -> Tensor:
        """The opinion (B, 5, h, w) on the cells of ``grid``, as :meth:`CorrelationBranch.forward` gives it."""
        search = self._stem(crops_B3HW)
        B, _, h, w = search.shape
        kernels = F.conv2d(template_BCtt.to(search), self._template[0][..., None, None], self._template[1])
        # Channels last: what a cell answers to both towers' kernels lies side by side.
        both = kernels.new_zeros(B, 2 * C, 2 * K)
        both[:, :C, :K], both[:, C:, K:] = kernels[:, :C].flatten(2), kernels[:, C : 2 * C].flatten(2)
        answers_BSK = search[:, : 2 * C].flatten(2).mT @ both
        share = F.relu(F.linear(answers_BSK.mean(1, keepdim=True), *self._squeeze))
        answers_BSK = answers_BSK * F.linear(share, *self._excite).sigmoid_()
        answers = self._answers(answers_BSK.view(B, h, w, 2 * K).permute(0, 3, 1, 2)).clamp_(0, 6)

        edge = (TEMPLATE_CELLS - KERNEL) // 2
        middle = kernels[:, 2 * C :, edge : edge + KERNEL, edge : edge + KERNEL].reshape(B * 2 * C, 1, KERNEL, KERNEL)
        channels = search[:, 2 * C :].reshape(1, B * 2 * C, h, w)
        channels = F.conv2d(channels, middle, padding=1, groups=B * 2 * C).view(B, 2 * C, h - 1, w - 1)

        parts = [part for tower in zip(answers.split(K, 1), channels.split(C, 1), strict=True) for part in tower]
        x = _of_two_groups(torch.cat(parts, dim=1), self._join)
        for depthwise, pointwise in self._tower:
            x = _of_two_groups(depthwise(x).clamp_(0, 6), pointwise)
        odds, _, distances = x.to(torch.promote_types(x.dtype, torch.float32)).split([1, 3, 4], dim=1)
        return opinion_on_cells(torch.cat([odds, distances], dim=1), grid)


def _of_two_groups(x: Tensor, maps: Map) -> Tensor:
    """Faster than with packed weights, at these sizes."""
    return F.conv2d(x.contiguous(memory_format=torch.channels_last), maps[0][..., None, None], maps[1], groups=2)


def _map(layer: nn.Conv2d) -> Map:
    assert layer.bias is not None
    return layer.weight.detach().flatten(1), layer.bias.detach()


def _after(first: Map, second: Map) -> Map:
    """Both, one after the other."""
    return second[0] @ first[0], second[0] @ first[1] + second[1]


def _stacked(maps: Sequence[Map]) -> Map:
    """The outputs of all, in turn."""
    return torch.cat([weight for weight, _ in maps]), torch.cat([bias for _, bias in maps])


def _diagonal(maps: Sequence[Map]) -> Map:
    """Maps of channels of their own."""
    return torch.block_diag(*(weight for weight, _ in maps)), torch.cat([bias for _, bias in maps])


def _convolution(of: Map) -> nn.Conv2d:
    weight, bias = of
    layer = nn.Conv2d(weight.shape[1], weight.shape[0], 1)
    layer.weight, layer.bias = nn.Parameter(weight[..., None, None]), nn.Parameter(bias)
    return layer


def _channelwise(layers: Sequence[nn.Conv2d]) -> FastConv:
    """Depth-wise convolutions of channels of their own."""
    weight, bias = (torch.cat([getattr(layer, name).detach() for layer in layers]) for name in ("weight", "bias"))
    return FastConv(weight, bias, padding=int(layers[0].padding[0]), groups=len(weight))
