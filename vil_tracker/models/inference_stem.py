"""The stems and group norms prepared for inference: the same functions, with weights in oneDNN's own layout. The mobile
stem is one C++ program on a CPU (native/mobile_stem.cpp), where that can be compiled.
"""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vil_tracker.models.inference_kernel import GroupNormGelu, load_program
from vil_tracker.models.inference_sublayer import FastConv
from vil_tracker.models.stem import IMAGENET_MEAN, IMAGENET_STD, InvertedResidual, MobileStem

Stage = Callable[[Tensor], Tensor]


def fast_stem(stem: nn.Module, dtype: torch.dtype, *, kernel: bool) -> Stage:
    """Image (B, 3, h, w) to a grid of features (B, D, h, w)."""
    if isinstance(stem, MobileStem):
        if kernel and MobileStemKernel.usable(stem):
            return MobileStemKernel(stem, dtype)
        cast = copy.deepcopy(stem).to(dtype)
        return lambda image: cast(image.to(dtype))
    stages: list[Stage] = []
    for layer in stem.modules():  # of a patch stem, one convolution
        if isinstance(layer, nn.Conv2d):
            bias = None if layer.bias is None else layer.bias.to(dtype)
            stages.append(FastConv(layer.weight.to(dtype), bias, stride=layer.stride[0], padding=int(layer.padding[0])))
        elif isinstance(layer, nn.GroupNorm):
            stages.append(GroupNormGelu([layer], dtype, kernel=kernel))  # with the GELU behind it

    def run(image: Tensor) -> Tensor:
        image = image.contiguous(memory_format=torch.channels_last)
        for stage in stages:
            image = stage(image)
        return image

    return run


# Pointers and sizes in the order of the C++ program's structures.
_BLOCK_LAYERS = ("expand", "depthwise", "squeeze", "excite", "project")
_BLOCK_SIZES = ("inputs", "hidden", "outputs", "kernel", "stride", "squeezed", "hard_swish", "residual")


class _Block(ctypes.Structure):
    """``Block`` of the C++ program."""

    _fields_ = (
        *((f"{name}{part}", ctypes.c_void_p) for name in _BLOCK_LAYERS for part in ("", "_bias")),
        *((name, ctypes.c_int32) for name in _BLOCK_SIZES),
    )


class _Stem(ctypes.Structure):
    """``Stem`` of the C++ program."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("first", "first_bias", "mean", "std", "project", "project_bias")),
        ("blocks", ctypes.POINTER(_Block)),
        *((name, ctypes.c_int32) for name in ("count", "channels", "dim")),
    )


class _StemCall(ctypes.Structure):
    """``StemCall`` of the C++ program."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("image", "out", "scratch")),
        ("strides", ctypes.c_int64 * 4),
        *((name, ctypes.c_int32) for name in ("B", "rows", "columns", "threads")),
    )


class MobileStemKernel:
    """:class:`MobileStem` as one C++ program. It computes in float32; the features come in dtype, channels last."""

    def __init__(self, stem: MobileStem, dtype: torch.dtype) -> None:
        program = load_program("mobile_stem")
        self._dtype, self._dim = dtype, stem.proj.out_channels
        self._lanes, self._spare_rows = program.lanes(), program.spare_rows()
        self._kept: list[Tensor] = []  # what the structures point to
        pixels_and_channels = rearrange(stem.first.weight, "o c r q -> (r q c) o")
        first = self._matrix(pixels_and_channels), self._matrix(stem.first.bias)
        normal = [self._keep(torch.tensor(values, dtype=torch.float32)) for values in (IMAGENET_MEAN, IMAGENET_STD)]
        blocks = [self._block(block) for block in stem.blocks]
        sizes = len(blocks), self._filled(stem.first.out_channels), self._dim
        pointers = (*first, *normal, *self._pointwise(stem.proj))
        self._stem = _Stem(*pointers, (_Block * len(blocks))(*blocks), *sizes)

    @staticmethod
    def usable(stem: MobileStem) -> bool:
        """Whether the program can run this stem: in float32 or bfloat16, on this CPU."""
        program = load_program("mobile_stem")
        weight = stem.proj.weight
        fits = weight.device.type == "cpu" and weight.dtype in (torch.float32, torch.bfloat16)
        return fits and program is not None and stem.proj.out_channels % program.lanes() == 0

    def __call__(self, image: Tensor) -> Tensor:
        """Features (B, dim, h, w) of normalised images (B, 3, 16 h, 16 w), of at least the 16 columns that the
        program's first convolution takes at once.
        """
        program = load_program("mobile_stem")
        image = image.float()
        B, _, rows, columns = image.shape
        if columns < 16:
            raise ValueError(f"an image of {columns} columns, expected at least 16")
        grid = (-(-rows // 16), -(-columns // 16))
        tokens = B * grid[0] * grid[1]
        out = image.new_empty(tokens + self._spare_rows, self._dim)
        scratch = image.new_empty(program.stem_scratch(ctypes.byref(self._stem), B, rows, columns))
        pointers = image.data_ptr(), out.data_ptr(), scratch.data_ptr()
        strides = (ctypes.c_int64 * 4)(*image.stride())
        call = _StemCall(*pointers, strides, B, rows, columns, torch.get_num_threads())
        program.run_stem(ctypes.byref(self._stem), ctypes.byref(call))
        return out[:tokens].to(self._dtype).view(B, *grid, self._dim).permute(0, 3, 1, 2)

    def _block(self, block: Any) -> _Block:
        assert isinstance(block, InvertedResidual)
        depthwise = block.depthwise
        filters = self._matrix(rearrange(depthwise.weight, "c 1 r q -> (r q) c")), self._matrix(depthwise.bias)
        expand = (None, None) if block.expand is None else self._pointwise(block.expand)
        excitation: tuple[int | None, ...] = (None,) * 4
        if block.squeeze is not None and block.excite is not None:
            parts = block.squeeze.weight, block.squeeze.bias, block.excite.weight.t(), block.excite.bias
            excitation = tuple(map(self._matrix, parts))
        inputs = depthwise.in_channels if block.expand is None else block.expand.in_channels
        channels = map(self._filled, (inputs, depthwise.in_channels, block.project.out_channels))
        squeezed = 0 if block.squeeze is None else block.squeeze.out_features
        sizes = *channels, depthwise.kernel_size[0], depthwise.stride[0], squeezed, block.hard_swish, block.residual
        return _Block(*expand, *filters, *excitation, *self._pointwise(block.project), *sizes)

    def _pointwise(self, layer: nn.Conv2d) -> tuple[int, int]:
        """Pointers to the (inputs, outputs) of a 1 × 1 convolution, and to its bias."""
        weight = F.pad(layer.weight.flatten(1).t(), (0, 0, 0, -layer.in_channels % self._lanes))
        return self._matrix(weight), self._matrix(layer.bias)

    def _matrix(self, weight: Tensor | None) -> int:
        """A pointer to a matrix or a vector whose columns are filled up to whole vectors with zeros."""
        assert weight is not None
        return self._keep(F.pad(weight, (0, -weight.shape[-1] % self._lanes)))

    def _filled(self, channels: int) -> int:
        return channels + -channels % self._lanes

    def _keep(self, tensor: Tensor) -> int:
        self._kept.append(tensor.detach().float().contiguous())
        return self._kept[-1].data_ptr()
