"""The stems and group norms prepared for inference: the same functions, with weights in oneDNN's own layout and the
activations inside the convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vil_tracker.models.inference_kernel import GroupNormGelu
from vil_tracker.models.inference_sublayer import FastConv
from vil_tracker.models.stem import ConvStem, InvertedResidual, MobileStem, black_at_zero

Stage = Callable[[Tensor], Tensor]


def group_norm_gelu(norms: Sequence[nn.GroupNorm], dtype: torch.dtype, kernel: bool) -> GroupNormGelu:
    """Group norms of neighbouring channels as one, with the GELU that follows each."""
    groups = sum(norm.num_groups for norm in norms)
    weight = torch.cat([norm.weight for norm in norms]).to(dtype)
    bias = torch.cat([norm.bias for norm in norms]).to(dtype)
    return GroupNormGelu(groups, weight, bias, norms[0].eps, kernel=kernel)


def fast_stem(stem: nn.Module, dtype: torch.dtype, *, kernel: bool) -> Stage:
    """Image (B, 3, h, w) to a grid of features (B, D, h, w)."""
    stages: list[Stage] = []
    if isinstance(stem, MobileStem):
        stages += [
            lambda image: black_at_zero(image).to(dtype),
            _fast_conv(stem.first, dtype, "hardswish"),
            *(FastInvertedResidual(block, dtype) for block in stem.blocks),
            _fast_conv(stem.proj, dtype),
        ]
    for layer in stem if isinstance(stem, ConvStem) else ():
        if isinstance(layer, nn.Conv2d):
            stages.append(_fast_conv(layer, dtype))
        elif isinstance(layer, nn.GroupNorm):
            stages.append(group_norm_gelu([layer], dtype, kernel))  # with the GELU behind it
    if not stages:
        stages.append(_fast_conv(stem.proj, dtype))  # type: ignore[arg-type]

    def run(image: Tensor) -> Tensor:
        image = image.contiguous(memory_format=torch.channels_last)
        for stage in stages:
            image = stage(image)
        return image

    return run


class FastInvertedResidual:
    """:class:`InvertedResidual` with its activations inside the convolutions where nothing stands between them."""

    def __init__(self, block: Any, dtype: torch.dtype) -> None:
        assert isinstance(block, InvertedResidual)
        activation = "hardswish" if block.hard_swish else "relu"
        self._residual = block.residual
        self._expand = None if block.expand is None else _fast_conv(block.expand, dtype, activation)
        self._excited = block.squeeze is not None
        late = self._excited and block.hard_swish  # the activation stands behind the excitation
        self._depthwise = _fast_conv(block.depthwise, dtype, "none" if late else activation)
        self._activate: Callable[..., Tensor] | None = F.hardswish if late else None
        if block.squeeze is not None and block.excite is not None:
            self._squeeze = block.squeeze.weight.to(dtype), block.squeeze.bias.to(dtype)
            self._excite = block.excite.weight.to(dtype), block.excite.bias.to(dtype)
        self._project = _fast_conv(block.project, dtype)

    def __call__(self, x: Tensor) -> Tensor:
        y = x if self._expand is None else self._expand(x)
        y = self._depthwise(y)
        if self._excited:
            squeezed = F.linear(y.mean((2, 3)), *self._squeeze).relu_()
            y = y.mul_(F.hardsigmoid(F.linear(squeezed, *self._excite))[..., None, None])
        if self._activate is not None:
            y = self._activate(y, inplace=True)
        y = self._project(y)
        return y.add_(x) if self._residual else y


def _fast_conv(layer: nn.Conv2d, dtype: torch.dtype, activation: str = "none") -> FastConv:
    """A convolution with square stride and padding."""
    return FastConv(
        layer.weight.to(dtype),
        None if layer.bias is None else layer.bias.to(dtype),
        stride=layer.stride[0],
        padding=int(layer.padding[0]),
        groups=layer.groups,
        activation=activation,
    )
