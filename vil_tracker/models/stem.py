"""Stems: what turns an image into a grid of tokens, one for each 16 × 16 pixels.

Shapes: B batch, D model width (``dim``); images are normalised, (B, 3, 16 h, 16 w), and become (B, D, h, w).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vil_tracker.errors import UserError, require_extra

IMAGENET_MEAN = (0.485, 0.456, 0.406)  # of RGB in [0, 1], by which images are normalised
IMAGENET_STD = (0.229, 0.224, 0.225)
MOBILE_CHANNELS = 96  # of NanoTrack V3's features


class PatchEmbed(nn.Module):
    """The official stem: one convolution whose stride is its kernel. (B, 3, h*p, w*p) -> (B, D, h, w)."""

    def __init__(self, dim: int, patch_size: int = 16) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, patch_size, stride=patch_size)
        nn.init.xavier_uniform_(self.proj.weight.view(dim, -1))
        nn.init.zeros_(self.proj.bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(image)


class ConvStem(nn.Sequential):
    """Four 3x3 convolutions of stride 2 (Xiao et al., "Early Convolutions Help Transformers See Better", 2021).

    Widths dim/8, dim/4, dim/2, dim, with group norm and GELU between them: no statistics cross images, so a batch
    gives what its images give alone.
    """

    def __init__(self, dim: int) -> None:
        widths = [3, dim // 8, dim // 4, dim // 2, dim]
        layers: list[nn.Module] = []
        for index, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
            last = index == len(widths) - 2
            layers.append(nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=last))
            nn.init.kaiming_normal_(layers[-1].weight, nonlinearity="linear" if last else "relu")  # type: ignore[arg-type]
            if not last:
                layers += [nn.GroupNorm(outputs // 4, outputs), nn.GELU()]
        super().__init__(*layers)
        nn.init.zeros_(layers[-1].bias)  # type: ignore[arg-type]

    def forward(self, image: Tensor) -> Tensor:
        return super().forward(image.contiguous(memory_format=torch.channels_last))


class Bottleneck(NamedTuple):
    """Shape of one inverted residual block."""

    kernel: int
    hidden: int
    outputs: int
    stride: int
    squeezed: int  # channels inside squeeze-and-excitation; 0 for none
    hard_swish: bool  # else ReLU


BOTTLENECKS = (
    Bottleneck(3, 16, 16, 2, 8, False),
    Bottleneck(3, 72, 24, 2, 0, False),
    Bottleneck(3, 88, 24, 1, 0, False),
    Bottleneck(5, 96, 40, 2, 24, True),
    Bottleneck(5, 240, 40, 1, 64, True),
    Bottleneck(5, 240, 40, 1, 64, True),
    Bottleneck(5, 120, 48, 1, 32, True),
    Bottleneck(5, 144, 48, 1, 40, True),
    Bottleneck(5, 288, MOBILE_CHANNELS, 1, 72, True),
)


class InvertedResidual(nn.Module):
    """A block of MobileNetV3 whose batch norms are folded into the convolutions."""

    def __init__(self, inputs: int, shape: Bottleneck) -> None:
        super().__init__()
        kernel, hidden, outputs, stride, squeezed, hard_swish = shape
        self.hard_swish = hard_swish
        self.residual = stride == 1 and inputs == outputs
        self.expand = nn.Conv2d(inputs, hidden, 1) if hidden != inputs else None
        self.depthwise = nn.Conv2d(hidden, hidden, kernel, stride, kernel // 2, groups=hidden)
        self.squeeze = nn.Linear(hidden, squeezed) if squeezed else None
        self.excite = nn.Linear(squeezed, hidden) if squeezed else None
        self.project = nn.Conv2d(hidden, outputs, 1)
        for layer in (self.expand, self.depthwise, self.project):
            if layer is not None:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear" if layer is self.project else "relu")
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        if squeezed:  # the excitation begins near a half
            self.project.weight.data *= 2

    def forward(self, x: Tensor) -> Tensor:
        activate = F.hardswish if self.hard_swish else F.relu
        y = x if self.expand is None else activate(self.expand(x))
        y = self.depthwise(y)
        if not self.hard_swish:  # the authors' order: ReLU before the excitation, hard swish behind it
            y = F.relu(y)
        if self.squeeze is not None and self.excite is not None:
            share = F.hardsigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3))))))
            y = y * share[..., None, None]
        if self.hard_swish:
            y = F.hardswish(y)
        y = self.project(y)
        return x + y if self.residual else y


class MobileStem(nn.Module):
    """MobileNetV3 (Howard et al., 2019), small, up to stride 16, and a projection of its features to tokens.

    The layout is that of NanoTrack V3's backbone, whose trained weights :func:`load_mobile_stem` reads.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, BOTTLENECKS[0].hidden, 3, stride=2, padding=1)
        widths = [self.first.out_channels, *(shape.outputs for shape in BOTTLENECKS)]
        self.blocks = nn.Sequential(*map(InvertedResidual, widths, BOTTLENECKS))
        self.proj = nn.Conv2d(MOBILE_CHANNELS, dim, 1)
        nn.init.kaiming_normal_(self.first.weight)
        nn.init.xavier_uniform_(self.proj.weight)

    def features(self, image: Tensor) -> Tensor:
        """(B, 96, h, w), before the projection."""
        return self.blocks(F.hardswish(self.first(black_at_zero(image))))

    def forward(self, image: Tensor) -> Tensor:
        return self.proj(self.features(image))


def black_at_zero(image: Tensor) -> Tensor:
    """Normalised crops as RGB in [0, 1], so that the zero padding of convolutions is the black border of NanoTrack's
    training.
    """
    channels = zip(image.unbind(1), IMAGENET_MEAN, IMAGENET_STD, strict=True)
    pixels = torch.stack([channel * std + mean for channel, mean, std in channels], dim=1)
    return pixels.contiguous(memory_format=torch.channels_last)


def build_stem(kind: str, dim: int, patch_size: int = 16) -> nn.Module:
    """The stem that ``model.stem`` names."""
    if kind == "patch":
        return PatchEmbed(dim, patch_size)
    return ConvStem(dim) if kind == "conv" else MobileStem(dim)


def load_mobile_stem(stem: MobileStem, path: Path) -> None:
    """Read the weights of NanoTrack V3's backbone, an ONNX file, into all of a stem but its projection.

    The file takes BGR pixels of 0 to 255; the first convolution is turned to RGB in [0, 1]. UserError where the
    package ``onnx`` is missing, or the file is not that network.
    """
    layers = [layer for layer in stem.modules() if isinstance(layer, nn.Conv2d | nn.Linear) and layer is not stem.proj]
    read_nanotrack_layers(layers, path, "nanotrack_backbone.onnx")
    with torch.no_grad():
        stem.first.weight.copy_(255 * stem.first.weight.flip(1))


def read_nanotrack_layers(layers: Sequence[nn.Module], path: Path, name: str) -> None:
    """Read weights and biases of the convolutions and linear maps of an ONNX file of NanoTrack V3's authors, ``name``,
    into layers in the file's order. UserError where the package ``onnx`` is missing, or the file is not that network.
    """
    onnx = require_extra("onnx", "export", "read NanoTrack's networks")
    try:
        graph = onnx.load(path).graph
        values = {value.name: torch.tensor(onnx.numpy_helper.to_array(value)) for value in graph.initializer}
        nodes = [node for node in graph.node if node.op_type in ("Conv", "Gemm") and node.input[1] in values]
        found = [[values[key] for key in node.input[1:3]] for node in nodes]
    except Exception as error:  # the library's errors are its own
        raise UserError(f"{path} cannot be read ({str(error)[:120]}): give {name} of V3") from error
    shapes = [(layer.weight.shape, layer.weight.shape[:1]) for layer in layers]  # type: ignore[union-attr,index]
    if [(weight.shape, bias.shape) for weight, bias in found] != shapes:
        raise UserError(f"{path} has other layers than NanoTrack V3's: give {name} of V3")
    with torch.no_grad():
        for layer, (weight, bias) in zip(layers, found, strict=True):
            layer.weight.copy_(weight)  # type: ignore[union-attr,operator]
            layer.bias.copy_(bias)  # type: ignore[union-attr,operator]
