"""C++ programs of an inference network, where they can be compiled: a sublayer between its projections as one
(native/sublayer.cpp), norms and sums (native/passes.cpp), linear maps (native/linear.cpp).

Shapes as in :mod:`vil_tracker.models.inference_sublayer`.
"""

from __future__ import annotations

import ctypes
import functools
import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from vil_tracker import native
from vil_tracker.models.mlstm import MLSTMState
from vil_tracker.models.vil import BLOCK, HEADS, BlockDiagonal, Grid

AVX2_LANES = 8  # floats in a vector

# Tensors in the order of the C++ program's structures.
_WEIGHTS = (
    *("conv", "conv_bias", "q", "k", "v", "q_bias", "k_bias", "v_bias"),
    *("gate_a", "gate_x", "gate_bias", "gain", "shift", "skip"),
)
_TENSORS = ("xm", "z", "y", "C", "n", "m", "scratch")


class _Weights(ctypes.Structure):
    """``Weights`` of the C++ program."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _WEIGHTS),
        ("E", ctypes.c_int32),
        ("reverse", ctypes.c_int32),
        ("norm_eps", ctypes.c_float),
    )


class _Call(ctypes.Structure):
    """``Call`` of the C++ program."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _TENSORS),
        ("row", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("B", "rows", "columns", "threads", "half")),
    )


# What the functions of each program return; the others return an int32.
_RESULTS: dict[str, dict[str, Any]] = {
    "sublayer": {"scratch_size": ctypes.c_int64, "run_sublayer": None},
    "passes": {"normalise": None, "add": None, "group_norm_gelu": None},
    "linear": {"linear": None},
    "mobile_stem": {"stem_scratch": ctypes.c_int64, "run_stem": None},
}


@functools.cache
def load_program(name: str) -> Any:
    """The program ``name``.cpp of the package ``native``; None where it cannot be compiled."""
    library = native.load(name)
    if library is not None:
        for function, kind in _RESULTS[name].items():
            getattr(library, function).restype = kind
    return library


def usable(width: int, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether the program can run sublayers of inner width E in this dtype: float32 or bfloat16, on this CPU."""
    if device.type != "cpu" or dtype not in (torch.float32, torch.bfloat16):
        return False
    program = load_program("sublayer")
    return program is not None and load_program("passes") is not None and width % (HEADS * program.lanes()) == 0


def normalise(x: Tensor, eps: float, dtype: torch.dtype) -> Tensor:
    """Tokens (B, S, D) in float32 with mean 0 and variance 1, in dtype; D as :func:`usable` asks of E."""
    program = load_program("passes")
    out = torch.empty(x.shape, dtype=dtype)
    x = x.contiguous()
    width = x.shape[-1]
    rows, half = x.numel() // width, int(dtype == torch.bfloat16)
    eps_and_threads = ctypes.c_float(eps), torch.get_num_threads(), half
    program.normalise(_pointer(x), _pointer(out), ctypes.c_int64(rows), width, *eps_and_threads)
    return out


def add(x: Tensor, y: Tensor) -> Tensor:
    """x + y, of x in float32 and y in bfloat16, both (B, S, D)."""
    program = load_program("passes")
    x, y = x.contiguous(), y.contiguous()
    out = torch.empty_like(x)
    program.add(_pointer(x), _pointer(y), _pointer(out), ctypes.c_int64(x.numel()), torch.get_num_threads())
    return out


class GroupNormGelu:
    """Group norms of neighbouring channels as one, and the GELU behind each, on channels-last images, which are written
    over.

    ``kernel`` lets the C++ program run it, on a CPU where it can be compiled.
    """

    def __init__(self, norms: Sequence[nn.GroupNorm], dtype: torch.dtype, *, kernel: bool = True) -> None:
        self.groups, self.eps = sum(norm.num_groups for norm in norms), norms[0].eps
        self.gain = torch.cat([norm.weight for norm in norms]).to(dtype)
        self.shift = torch.cat([norm.bias for norm in norms]).to(dtype)
        self._kernel = kernel and self.gain.device.type == "cpu" and dtype in (torch.float32, torch.bfloat16)
        self._wide = self.gain.detach().float().contiguous(), self.shift.detach().float().contiguous()

    def __call__(self, image: Tensor) -> Tensor:
        fold = self._fold(image)
        if not fold:
            return F.gelu(F.group_norm(image, self.groups, self.gain, self.shift, self.eps))
        program = load_program("passes")
        B, C, rows, columns = image.shape
        sizes = ctypes.c_int64(B), ctypes.c_int64(rows * columns), C, self.groups, fold
        gain_and_shift = (_pointer(part) for part in self._wide)
        half = int(image.dtype == torch.bfloat16)
        program.group_norm_gelu(
            *(_pointer(image), _pointer(image), *sizes, *gain_and_shift),
            *(ctypes.c_float(self.eps), torch.get_num_threads(), half),
        )
        return image

    def _fold(self, image: Tensor) -> int:
        """How many pixels side by side fill whole vectors; 0 where the C++ program cannot run."""
        if not self._kernel or torch.compiler.is_compiling() or (program := load_program("passes")) is None:
            return 0
        fold = program.lanes() // math.gcd(program.lanes(), image.shape[1])
        whole = image.shape[2] * image.shape[3] % fold == 0
        return fold if whole and image.is_contiguous(memory_format=torch.channels_last) else 0


class LinearKernel:
    """A linear map whose weights (O, I), in float32, lie in panels, as native/linear.cpp reads them."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        program = load_program("linear")
        panels = weight.t().split(program.panel(), dim=1)
        self._weight = torch.cat([panel.flatten() for panel in panels])
        self._bias, self._sizes = bias.contiguous(), (weight.shape[1], weight.shape[0])

    @staticmethod
    def pays(weight: Tensor) -> bool:
        """Whether the program is there, in float32, with the vectors of AVX2 or AVX-512: faster than oneDNN on a Zen 3
        and a Zen 4, not measured on others.
        """
        program = load_program("linear") if weight.device.type == "cpu" and weight.dtype == torch.float32 else None
        return program is not None and program.lanes() >= AVX2_LANES and weight.shape[0] % program.lanes() == 0

    def __call__(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """The map of x (..., I), plus a residual (..., O) if there is one."""
        program = load_program("linear")
        rows = x.flatten(0, -2)
        if rows.stride(1) != 1:
            rows = rows.contiguous()
        kept = None if residual is None else residual.contiguous()
        out = x.new_empty(*x.shape[:-1], self._sizes[1])
        places = (_pointer(self._weight), _pointer(self._bias), None if kept is None else _pointer(kept), _pointer(out))
        sizes = ctypes.c_int64(len(rows)), *self._sizes, torch.get_num_threads()
        program.linear(_pointer(rows), ctypes.c_int64(rows.stride(0)), *places, *sizes)
        return out


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


class SublayerKernel:
    """What lies between a sublayer's projections, for search tokens in storage order; ``reverse``: from the last one.

    Args:
        maps: the block-diagonal maps q, k and v.
        tensors: conv, depthwise kernel (E, 1, 3, 3) for tokens as they are stored, and conv_bias (E); gate_a and gate_x
            (2 H, E), gates as maps of the convolution's output and input, input gates first, and gate_bias (2 H); gain,
            shift and skip (E), affine part of the output's norm (of ``norm_eps``), and of the skip.
    """

    def __init__(
        self, maps: dict[str, BlockDiagonal], tensors: dict[str, Tensor], norm_eps: float, reverse: bool
    ) -> None:
        self._width = len(tensors["skip"])
        tensors = {**tensors, "conv": rearrange(tensors["conv"], "e 1 r c -> (r c) e")}
        for name, block in maps.items():
            factor = 1 / math.sqrt(self._width // HEADS) if name == "k" else 1.0  # the cell's, of the keys
            tensors[name], tensors[f"{name}_bias"] = factor * _diagonals(block.weight), factor * block.bias
        self._tensors = {name: tensors[name].detach().float().contiguous() for name in _WEIGHTS}
        pointers = [tensor.data_ptr() for tensor in self._tensors.values()]
        self._weights = _Weights(*pointers, self._width, int(reverse), norm_eps)

    def __call__(self, xm_and_z: Tensor, grid: Grid, state: MLSTMState) -> Tensor:
        """What goes into the down-projection, (B, S, E), from the up-projection's output (B, S, 2 E) in its dtype."""
        program = load_program("sublayer")
        B, S, _ = xm_and_z.shape
        threads = torch.get_num_threads()
        xm_and_z = xm_and_z.contiguous()
        C, n, m = (part.float().contiguous() for part in state)
        y = xm_and_z.new_empty(B, S, self._width)
        scratch = torch.empty(program.scratch_size(B, S, self._width, threads), dtype=torch.float32)
        begin, width = xm_and_z.data_ptr(), self._width * xm_and_z.element_size()
        pointers = (begin, begin + width, y.data_ptr(), C.data_ptr(), n.data_ptr(), m.data_ptr(), scratch.data_ptr())
        half = xm_and_z.dtype == torch.bfloat16
        call = _Call(*pointers, 2 * self._width, B, *grid, threads, int(half))
        program.run_sublayer(ctypes.byref(self._weights), ctypes.byref(call))
        return y


def _diagonals(weight: Tensor) -> Tensor:
    """Blocks (E/4, 4 out, 4 in) as (4, E): what multiplies a channel itself, the next one of its block, and so on."""
    out = torch.arange(BLOCK, device=weight.device)
    return torch.stack([weight[:, out, (out + shift) % BLOCK].flatten() for shift in range(BLOCK)])
