"""One ViL sublayer on search tokens, prepared for inference: the same function, but for rounding, in fewer operations.

- the norm's affine part is folded into the up-projection, and both gates' maps into one of the convolution's output
  and one of its input;
- block-diagonal projections are batched products that leave channels before tokens, so that heads need no copy;
- odd sublayers keep the tokens where they are: the kernel is rotated by 180° and the cell sums from the other end;
- what lies between the projections is one C++ program where that can be compiled (:mod:`inference_kernel`); else, on
  other devices, in float64 and for torch.compile it is PyTorch's operations, arranged as follows:
- the decays of the cell ride on the keys, w_j = exp(c_j - r) with one r per chunk: the memory is rescaled from chunk to
  chunk, and inside them a triangle remains instead of an exponential per pair of tokens. Where the decay over one
  chunk is too strong for the number format, the ordinary form takes over.

Shapes: B batch, H heads, G = B H, S tokens, D model width, E = 2 D inner width, K = E / H head width, N chunks of L
tokens.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from vil_tracker.models.inference_kernel import LinearKernel, SublayerKernel, add, normalise, usable
from vil_tracker.models.mlstm import EPS, MLSTMState, mlstm_scan
from vil_tracker.models.vil import HEADS, BlockDiagonal, Grid, ViLSublayer

CHUNK = 64  # tokens; least operations for head widths of 96 and 192
MAP_BLOCK = 16  # columns of the merged block-diagonal maps: fewer leave vector units idle, more multiply zeros
MAX_DECAY = 120.0  # exp(±60) times a product of activations is still a normal number in float32 and bfloat16


class FastConv:
    """A convolution of channels-last images whose weight is kept in the layout that oneDNN computes with."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, *, stride: int = 1, padding: int = 0, groups: int = 1
    ) -> None:
        self.bias, self.stride, self.padding, self.groups = bias, stride, padding, groups
        self.weight = weight.contiguous(memory_format=torch.channels_last)
        # PyTorch has no public way to keep a packed weight; without the operator each call packs it again.
        self.packed = None
        if _packs(weight, weight.dtype) and hasattr(torch.ops.mkldnn, "_convolution_pointwise"):
            size = [1, weight.shape[1] * groups, 16 * stride, 16 * stride]
            reorder: Any = torch._C._nn.mkldnn_reorder_conv2d_weight
            self.packed = reorder(weight.contiguous().to_mkldnn(), [padding] * 2, [stride] * 2, [1, 1], groups, size)

    def __call__(self, image: Tensor) -> Tensor:
        if self.packed is None or torch.compiler.is_compiling():
            return F.conv2d(image, self.weight, self.bias, self.stride, self.padding, groups=self.groups)
        stride, padding = [self.stride] * 2, [self.padding] * 2
        return torch.ops.mkldnn._convolution_pointwise(
            image, self.packed, self.bias, padding, stride, [1, 1], self.groups, "none", [], ""
        )


class FastLinear:
    """A linear map; with ``int8``, weights quantised per output and inputs per token as they come, both symmetric."""

    def __init__(self, weight: Tensor, bias: Tensor, dtype: torch.dtype, int8: bool = False) -> None:
        self.weight, self.bias = weight.to(dtype).contiguous(), bias.to(dtype)
        self.quantised: Tensor | None = None
        self.packed: Tensor | None = None
        self.kernel: LinearKernel | None = None
        if not int8 and LinearKernel.pays(self.weight):
            self.kernel = LinearKernel(self.weight, self.bias)
        elif int8:
            self.scale = weight.abs().amax(dim=1).clamp(min=1e-12).div(_largest_int8_weight()).to(dtype)
            self.quantised = (self.weight / self.scale[:, None]).round().to(torch.int8).t().contiguous()
        elif _packs(weight, dtype) and hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight)

    def __call__(self, x: Tensor) -> Tensor:
        if self.quantised is None:
            x = x.to(self.weight.dtype)
            if self.kernel is not None and not torch.compiler.is_compiling():
                return self.kernel(x)
            if self.packed is None or torch.compiler.is_compiling():
                return F.linear(x, self.weight, self.bias)
            return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        rows = x.view(-1, x.shape[-1])
        scale = rows.abs().amax(dim=1, keepdim=True).clamp_(min=1e-12).div_(127)
        product = torch._int_mm((rows / scale).round_().to(torch.int8), self.quantised).to(x.dtype)
        product = torch.addcmul(self.bias, product.mul_(scale), self.scale)
        return product.view(*x.shape[:-1], -1)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """``residual`` plus the map of x; in bfloat16 by the C++ program, which alone asks for it there."""
        if self.weight.dtype == torch.bfloat16:
            return add(residual, self(x))
        if self.kernel is not None and not torch.compiler.is_compiling():
            return self.kernel(x.to(self.weight.dtype), residual)
        if self.packed is None or residual.dtype != self.packed.dtype or torch.compiler.is_compiling():
            return residual + self(x)
        return torch.ops.mkldnn._linear_pointwise.binary(x, residual, self.packed, self.bias, "add")


@functools.cache
def _largest_int8_weight() -> int:
    """127, or 64 where sums of two products of bytes saturate at 16 bits: on x86-64 without VNNI."""
    sevens = torch.full((64, 64), 127, dtype=torch.int8)
    exact = bool((torch._int_mm(sevens, sevens) == 64 * 127**2).all())
    return 127 if exact else 64


def _packs(weight: Tensor, dtype: torch.dtype) -> bool:
    """Whether oneDNN computes with such weights, so that they may be kept in its layout.

    It refuses bfloat16 on processors that have neither AVX-512 nor AVX-NE-CONVERT; plain operators compute it there.
    """
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    supported = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return dtype == torch.float32 or (dtype == torch.bfloat16 and supported is not None and supported())


def chunk_length(tokens: int) -> int:
    """The divisor of ``tokens`` nearest to :data:`CHUNK`, or all of them where none is near; 0 for too many."""
    near = [length for length in range(CHUNK // 2, 2 * CHUNK + 1) if tokens % length == 0]
    if near:
        return min(near, key=lambda length: abs(math.log(length / CHUNK)))
    return tokens if tokens <= 4 * CHUNK else 0


class Scales(NamedTuple):
    """Factors that take the place of the decays, relative to a reference of each chunk."""

    keys: Tensor  # (B, H, S)
    #: (B, H, N), square root of that of the memory that a chunk is handed, which itself may be too small a number;
    #: chunks in scan order, the first gets the template's.
    memory: Tensor
    floor: Tensor  # (B, H, S), least denominator
    epsilon: Tensor  # (B, H, S), what is added to it


class FastSublayer:
    """One sublayer on search tokens in storage order, starting from a template's memory.

    ``dtype`` is that of the projections and the convolution; ``int8`` quantises the projections; ``kernel`` lets the
    C++ program run what lies between them, where there is one.
    """

    def __init__(self, sublayer: ViLSublayer, dtype: torch.dtype, int8: bool = False, *, kernel: bool = True) -> None:
        layer = sublayer.layer
        cell = layer.mlstm_cell
        wide = torch.promote_types(dtype, torch.float32)
        width = layer.width
        self.dtype, self.reverse = dtype, sublayer.reverse
        self.norm_eps, self.outnorm_eps = sublayer.norm.eps, cell.outnorm.eps
        self.block = math.gcd(layer.map_block, MAP_BLOCK)

        weight = layer.proj_up.weight * (1 + sublayer.norm.weight)
        bias = layer.proj_up.bias + layer.proj_up.weight @ sublayer.norm.bias
        self.kernel: SublayerKernel | None = None
        if kernel and usable(width, dtype, weight.device):
            self.up = FastLinear(weight, bias, dtype, int8)
        else:
            self.up_x = FastLinear(weight[:width], bias[:width], dtype, int8)
            self.up_z = FastLinear(weight[width:], bias[width:], dtype, int8)
        self.down = FastLinear(layer.proj_down.weight, layer.proj_down.bias, dtype, int8)

        kernel_3x3 = layer.conv.weight.flip(2, 3) if self.reverse else layer.conv.weight
        assert layer.conv.bias is not None
        self.conv = FastConv(kernel_3x3.to(dtype), layer.conv.bias.to(dtype), padding=1, groups=width)

        def block_map(projection: BlockDiagonal, scale: float = 1.0) -> tuple[Tensor, Tensor]:
            merged = scale * projection.merged(self.block).transpose(1, 2)  # (groups, out, in)
            return merged.to(wide).contiguous(), (scale * projection.bias).to(wide).view(-1, self.block, 1)

        # The cell's factor 1/√K of the keys is in the queries' map, and taken out again where the cell brings its own.
        self.root = math.sqrt(width // HEADS)
        self.q, self.k, self.v = (
            block_map(p, scale) for p, scale in ((layer.q_proj, 1 / self.root), (layer.k_proj, 1), (layer.v_proj, 1))
        )

        gates = torch.cat([cell.igate.weight, cell.fgate.weight]).chunk(3, dim=1)
        folded = [p.fold_into(rows) for p, rows in zip((layer.q_proj, layer.k_proj, layer.v_proj), gates, strict=True)]
        self.gate_a, self.gate_x = (folded[0][0] + folded[1][0]).to(wide), folded[2][0].to(wide)
        gate_bias = torch.cat([cell.igate.bias, cell.fgate.bias]) + folded[0][1] + folded[1][1] + folded[2][1]
        self.gate_bias = gate_bias.to(wide)[:, None]
        self.wide = wide

        heads = (HEADS, width // HEADS)
        self.gain, self.shift = (1 + cell.outnorm.weight).to(wide).view(heads), cell.outnorm.bias.to(wide).view(heads)
        self.skip = layer.learnable_skip.to(wide)

        if kernel and usable(width, dtype, weight.device):
            tensors = {name: getattr(self, name) for name in ("gate_a", "gate_x", "gate_bias", "gain", "shift", "skip")}
            maps = {"q": layer.q_proj, "k": layer.k_proj, "v": layer.v_proj}
            tensors |= {"conv": kernel_3x3, "conv_bias": layer.conv.bias}
            self.kernel = SublayerKernel(maps, tensors, self.outnorm_eps, self.reverse)

    def __call__(self, x_BSD: Tensor, grid: Grid, state: MLSTMState) -> Tensor:
        if self.kernel is not None:
            normed = normalise(x_BSD, self.norm_eps, self.dtype)
            return self.down.add_to(x_BSD, self.kernel(self.up(normed), grid, state))
        return self.bounded(x_BSD, grid, state, check=True)[0]

    def bounded(self, x_BSD: Tensor, grid: Grid, state: MLSTMState, check: bool = False) -> tuple[Tensor, Tensor]:
        """As :meth:`__call__`, without branches on values, so that it can be compiled.

        The tokens, and the largest exponent of a decay over a chunk: they are right if that is at most
        :data:`MAX_DECAY`, with ``check`` in any case.
        """
        normed = F.layer_norm(x_BSD, x_BSD.shape[-1:], eps=self.norm_eps)
        xm_BSE = self.up_x(normed)
        image = rearrange(xm_BSE, "b (r c) e -> b e r c", r=grid[0])
        a_BSE = F.silu(rearrange(self.conv(image), "b e r c -> b (r c) e").to(self.wide), inplace=True)
        y_BSE, steepest = self._cell(a_BSE, xm_BSE.to(self.wide), state, check)
        y_BSE.addcmul_(a_BSE, self.skip)
        y_BSE.mul_(F.silu(self.up_z(normed), inplace=True))
        return x_BSD + self.down(y_BSE), steepest

    def map_heads(self, x_BSE: Tensor, weight_and_bias: tuple[Tensor, Tensor]) -> Tensor:
        """A block-diagonal projection: (B, S, E) -> (B H, K, S)."""
        weight, bias = weight_and_bias
        B, S, E = x_BSE.shape
        x = x_BSE.view(B * S, -1, self.block).permute(1, 2, 0)
        y = torch.baddbmm(bias, weight, x)
        return y.view(HEADS, E // HEADS, B, S).permute(2, 0, 1, 3).reshape(B * HEADS, E // HEADS, S)

    def _cell(self, a_BSE: Tensor, xm_BSE: Tensor, state: MLSTMState, check: bool) -> tuple[Tensor, Tensor]:
        """The cell and the affine norm of its output, (B, S, E), and the largest exponent of a decay over a chunk."""
        B, S, _ = a_BSE.shape
        q, k, v = self.map_heads(a_BSE, self.q), self.map_heads(a_BSE, self.k), self.map_heads(xm_BSE, self.v)
        i, f = self.gates(a_BSE, xm_BSE)
        L = chunk_length(S)
        scales, steepest = self.scales(i, f, state.m.to(self.wide), L or S)
        if L == 0 or (check and steepest.item() > MAX_DECAY):
            h = self.any_decay(q, k, v, i, f, state)  # (B, H, S, K)
            h = F.layer_norm(h, h.shape[-1:], eps=self.outnorm_eps).transpose(1, 2)
            return torch.addcmul(self.shift, h, self.gain).flatten(2), torch.zeros_like(steepest)
        h = self.chunks(q, k, v, scales, state, L)  # (N, B H, L, K)
        h = F.layer_norm(h, h.shape[-1:], eps=self.outnorm_eps)
        h = h.view(S // L, B, HEADS, L, -1).permute(1, 0, 3, 2, 4)
        if torch.compiler.is_compiling():  # the compiler lays out for itself
            return torch.addcmul(self.shift, h, self.gain).reshape(a_BSE.shape), steepest
        y_BSE = torch.empty_like(a_BSE)
        torch.addcmul(self.shift, h, self.gain, out=y_BSE.view(h.shape))
        return y_BSE, steepest

    def gates(self, a_BSE: Tensor, xm_BSE: Tensor) -> tuple[Tensor, Tensor]:
        """Pre-activations of the input and forget gates, (B, H, S)."""
        B, S, E = a_BSE.shape
        a, xm = a_BSE.view(B * S, E).t(), xm_BSE.view(B * S, E).t()
        gates = torch.addmm(self.gate_bias, self.gate_a, a).addmm_(self.gate_x, xm)
        i, f = gates.view(2, HEADS, B, S).transpose(1, 2)
        return i, f

    def scales(self, i: Tensor, f: Tensor, m0: Tensor, L: int) -> tuple[Scales, Tensor]:
        """Factors from gates (B, H, S) and the memory's m (B, H), for chunks of L tokens; and the largest growth of M
        within a chunk: above :data:`MAX_DECAY` they must not be used.

        M only grows. Half of its growth lies on either side of a chunk's reference, so that rows at one end are not
        too small nor keys at the other too large.
        """
        if self.reverse:
            i, f = i.flip(-1), f.flip(-1)
        b = torch.cumsum(F.logsigmoid(f), dim=-1)
        c = i - b
        M = torch.maximum(torch.cummax(c, dim=-1).values, m0[..., None])
        first, last = M[..., ::L], M[..., L - 1 :: L]
        reference = (first + last) / 2
        exponents = torch.stack([c, M, -b])
        exponents.unflatten(-1, (-1, L)).sub_(reference[..., None])
        factors = exponents.exp_()
        if self.reverse:
            factors = factors.flip(-1)
        memory = torch.exp((torch.cat([m0[..., None], reference[..., :-1]], dim=-1) - reference) / 2)
        return Scales(factors[0], memory, factors[2], factors[1] * EPS), (last - first).amax()

    def chunks(self, q: Tensor, k: Tensor, v: Tensor, scales: Scales, state: MLSTMState, L: int) -> Tensor:
        """h by chunks, (N, B H, L, K), from q, k, v of (B H, K, S)."""
        G, K, S = q.shape
        N, wide, dtype = S // L, self.wide, q.dtype
        k = k.mul_(scales.keys.to(dtype).reshape(G, 1, S))
        scale = scales.memory.reshape(G, N, 1, 1)
        C = (state.C.to(wide).view(G, K, K) * scale[:, 0] * (scale[:, 0] * self.root)).to(dtype)
        n = state.n.to(wide).view(G, K) * scale[:, 0, 0] * (scale[:, 0, 0] * self.root)

        parts = [slice(start, start + L) for start in range(0, S, L)]
        W = q.new_empty(N, G, L, L)
        for index, part in enumerate(parts):
            torch.bmm(q[..., part].transpose(1, 2), k[..., part], out=W[index])
        W = W.triu_() if self.reverse else W.tril_()

        # Normaliser before each chunk, (G, K, N), and what each query reads of its own chunk's.
        order = range(N - 1, -1, -1) if self.reverse else range(N)
        added = k.view(G, K, N, L).sum(-1, dtype=wide)
        before = torch.empty_like(added)
        for step, index in enumerate(order):
            before[..., index] = n
            if step + 1 < N:
                n = (n + added[..., index]) * scale[:, step + 1, 0] * scale[:, step + 1, 0]
        read = torch.bmm(q.transpose(1, 2), before.to(dtype)).view(G, N, L, N)
        den = W.sum(-1, dtype=wide) + read.diagonal(dim1=1, dim2=3).permute(2, 0, 1)  # (N, G, L)

        num = q.new_empty(N, G, L, K)
        for step, index in enumerate(order):
            part = parts[index]
            v_GLK = v[..., part].transpose(1, 2)
            torch.bmm(q[..., part].transpose(1, 2), C, out=num[index])
            num[index].baddbmm_(W[index], v_GLK)
            if step + 1 < N:
                factor = scale[:, step + 1].to(dtype)
                C = torch.baddbmm(C, k[..., part], v_GLK).mul_(factor).mul_(factor)
        floor, epsilon = (bound.reshape(G, N, L).transpose(0, 1) for bound in (scales.floor, scales.epsilon))
        return num.mul_(torch.maximum(den.abs_(), floor).add_(epsilon).reciprocal_().to(dtype)[..., None])

    def any_decay(self, q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: MLSTMState) -> Tensor:
        """The cell without a limit on the decay, (B, H, S, K)."""
        q, k, v = (rearrange(t, "(b h) k s -> b h s k", h=HEADS) for t in (q, k, v))
        if self.reverse:
            q, k, v, i, f = q.flip(2), k.flip(2), v.flip(2), i.flip(2), f.flip(2)
        h, _ = mlstm_scan(q * self.root, k, v, i, f, state)
        return h.flip(2) if self.reverse else h
