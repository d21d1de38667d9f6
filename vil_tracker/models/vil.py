"""Vision-LSTM v2 backbone (Alkin et al., "Vision-LSTM: xLSTM as Generic Vision Backbone", 2024).

Shapes: B batch, S tokens, D model width (``dim``), E = 2 D inner width, H = 4 heads. A sequence is a concatenation of
regions, each a row-major grid of tokens. Even sublayers scan it region by region, row-wise from the top left; odd ones
scan the regions in the same order, each reversed inside itself. With one region that is exactly the official network.
Parameter names inside a sublayer are the official ones.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vil_tracker.models.mlstm import MLSTMState, mlstm_scan
from vil_tracker.models.stem import build_stem

HEADS = 4
BLOCK = 4  # q, k and v are block-diagonal maps with blocks of this size
MAP_BLOCK = 32  # blocks are merged up to this size: matrix products of 4 columns leave the vector units idle
OFFICIAL_GRID = (14, 14)

Grid = tuple[int, int]
Memory = tuple[MLSTMState, ...]


class OffsetLayerNorm(nn.Module):
    """LayerNorm whose effective weight is 1 + ``weight``."""

    def __init__(self, dim: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, 1 + self.weight, self.bias, self.eps)


def resize_grid(grid_1HWD: Tensor, size: Grid) -> Tensor:
    """Resize a (1, H, W, D) grid of embeddings to (1, *size, D), bicubically as the reference does."""
    if grid_1HWD.shape[1:3] == size:
        return grid_1HWD
    resized = F.interpolate(
        grid_1HWD.permute(0, 3, 1, 2), size=size, mode="bicubic", align_corners=False, antialias=False
    )
    return resized.permute(0, 2, 3, 1)


class PositionEmbedding(nn.Module):
    """Learnable 2-D position embedding (1, H, W, D), resized to whatever grid it is asked for."""

    def __init__(self, initial_1HWD: Tensor) -> None:
        super().__init__()
        self.embed = nn.Parameter(initial_1HWD.detach().clone(memory_format=torch.contiguous_format))

    def forward(self, size: Grid) -> Tensor:
        """The embedding of a grid, (1, h * w, D)."""
        return resize_grid(self.embed, size).flatten(1, 2)


def initial_position_embedding(dim: int, grid: Grid = OFFICIAL_GRID) -> Tensor:
    """A fresh (1, *grid, dim) embedding, truncated normal with standard deviation 0.02."""
    return nn.init.trunc_normal_(torch.empty(1, *grid, dim), std=0.02)


class BlockDiagonal(nn.Module):
    """Parameters of a block-diagonal linear map: weight (E/4, 4 out, 4 in), bias (E)."""

    def __init__(self, width: int, std: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(nn.init.normal_(torch.empty(width // BLOCK, BLOCK, BLOCK), std=std))
        self.bias = nn.Parameter(torch.zeros(width))

    def merged(self, block: int) -> Tensor:
        """The same map with larger blocks, (E/block, block in, block out), zero outside the 4x4 ones."""
        count = block // BLOCK
        eye = torch.eye(count, dtype=self.weight.dtype, device=self.weight.device)
        weight = rearrange(self.weight, "(g r) o i -> g r i o", r=count)
        return rearrange(weight[:, :, :, None, :] * eye[:, None, :, None], "g r i s o -> g (r i) (s o)")

    def fold_into(self, rows_RE: Tensor) -> tuple[Tensor, Tensor]:
        """``rows @ (self(x))`` as one map of x: weight (R, E) and bias (R)."""
        rows = rearrange(rows_RE, "r (n o) -> n r o", o=BLOCK)
        return rearrange(rows @ self.weight, "n r i -> r (n i)"), rows_RE @ self.bias


class MLSTMCell(nn.Module):
    """Parameters around the cell: both gates' linear maps of (q, k, v) and the per-head norm of its output."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.igate = nn.Linear(3 * width, HEADS)
        self.fgate = nn.Linear(3 * width, HEADS)
        self.outnorm = OffsetLayerNorm(width)
        nn.init.zeros_(self.igate.weight)
        nn.init.zeros_(self.fgate.weight)
        nn.init.normal_(self.igate.bias, std=0.1)
        self.fgate.bias.data.copy_(torch.tensor([3 + 3 * head / (HEADS - 1) for head in range(HEADS)]))


class ViLLayer(nn.Module):
    """The mLSTM layer: up-projection, convolution, cell, gated down-projection."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        width = 2 * dim
        std = math.sqrt(2 / (5 * dim))
        self.width = width
        self.map_block = math.gcd(width // HEADS, MAP_BLOCK)
        self.proj_up = nn.Linear(dim, 2 * width)
        self.conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.q_proj = BlockDiagonal(width, std)
        self.k_proj = BlockDiagonal(width, std)
        self.v_proj = BlockDiagonal(width, std)
        self.mlstm_cell = MLSTMCell(width)
        self.learnable_skip = nn.Parameter(torch.ones(width))
        self.proj_down = nn.Linear(width, dim)
        nn.init.normal_(self.proj_up.weight, std=std)
        nn.init.zeros_(self.proj_up.bias)
        nn.init.normal_(self.proj_down.weight, std=2 / math.sqrt(dim))
        nn.init.zeros_(self.proj_down.bias)

    def forward(
        self, x_BSD: Tensor, regions: Sequence[Grid], state: MLSTMState | None = None, return_state: bool = False
    ) -> tuple[Tensor, MLSTMState | None]:
        """Scan normalised tokens (B, S, D) that are already in scan order, continuing from ``state``.

        ``regions`` are the grids (rows, columns) in order; their areas add up to S. Returns the tokens, and with
        ``return_state`` the memory after the last one (None otherwise).
        """
        xm_BSE, z_BSE = self.proj_up(x_BSD).split(self.width, dim=-1)
        a_BSE = F.silu(self._convolve(xm_BSE, regions))
        q, k = self._map(a_BSE, self.q_proj, self.k_proj)
        (v,) = self._map(xm_BSE, self.v_proj)
        i, f = self._gates(a_BSE, xm_BSE)
        h_BHSK, state = mlstm_scan(q, k, v, i, f, state, return_state)
        norm = self.mlstm_cell.outnorm
        h_BSE = rearrange(F.layer_norm(h_BHSK, h_BHSK.shape[-1:], eps=norm.eps), "b h s k -> b s (h k)")
        # The activations' dtype decides: full-precision parameters would promote whole tensors under autocast.
        gain, bias, skip = ((p.to(h_BSE.dtype)) for p in (1 + norm.weight, norm.bias, self.learnable_skip))
        h_BSE = torch.addcmul(torch.addcmul(bias, h_BSE, gain), skip, a_BSE)
        return self.proj_down(h_BSE * F.silu(z_BSE)), state

    def _convolve(self, x_BSE: Tensor, regions: Sequence[Grid]) -> Tensor:
        """3x3 depthwise convolution of each region on its own grid; equal neighbours go through together."""
        parts = []
        start = 0
        for (rows, columns), group in itertools.groupby(regions):
            count = len(list(group))
            part = x_BSE[:, start : start + count * rows * columns]
            start += count * rows * columns
            image = rearrange(part, "b (n r c) e -> (b n) e r c", r=rows, c=columns)
            parts.append(rearrange(self.conv(image), "(b n) e r c -> b (n r c) e", n=count))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _map(self, x_BSE: Tensor, *projections: BlockDiagonal) -> tuple[Tensor, ...]:
        """Apply block-diagonal projections in one batched product; each result is (B, H, S, K) by heads."""
        B, block, count = x_BSE.shape[0], self.map_block, len(projections)
        weight = torch.stack([projection.merged(block) for projection in projections], dim=2).flatten(2)
        bias = torch.stack([projection.bias.view(-1, 1, block) for projection in projections], dim=2).flatten(2)
        x = rearrange(x_BSE, "b s (g k) -> g (b s) k", k=block)
        y = torch.baddbmm(bias, x, weight)
        return rearrange(y, "(h r) (b s) (p k) -> p b h s (r k)", h=HEADS, b=B, p=count).unbind(0)

    def _gates(self, a_BSE: Tensor, xm_BSE: Tensor) -> tuple[Tensor, Tensor]:
        """Input and forget gate pre-activations (B, H, S), always at least in float32.

        The gates are linear in q, k and v, which are linear in a and xm: both maps are folded into one each.
        """
        dtype = torch.promote_types(a_BSE.dtype, torch.float32)
        with torch.autocast(a_BSE.device.type, enabled=False):
            cell = self.mlstm_cell
            from_q, from_k, from_v = torch.cat([cell.igate.weight, cell.fgate.weight]).chunk(3, dim=1)
            weight_q, bias_q = self.q_proj.fold_into(from_q)
            weight_k, bias_k = self.k_proj.fold_into(from_k)
            weight_v, bias_v = self.v_proj.fold_into(from_v)
            bias = torch.cat([cell.igate.bias, cell.fgate.bias]) + bias_q + bias_k + bias_v
            gates = F.linear(a_BSE.to(dtype), weight_q + weight_k, bias) + F.linear(xm_BSE.to(dtype), weight_v)
        i, f = rearrange(gates, "b s (p h) -> p b h s", p=2)
        return i, f


class ViLSublayer(nn.Module):
    """``x + drop_path(layer(norm(x)))`` in one scan direction."""

    def __init__(self, dim: int, *, reverse: bool, drop_path: float = 0.0, flip_all: bool = False) -> None:
        super().__init__()
        self.reverse = reverse
        self.flip_all = flip_all
        self.norm = OffsetLayerNorm(dim)
        self.layer = ViLLayer(dim)
        self.drop_path: nn.Module = nn.Identity()
        if drop_path > 0:
            from timm.layers.drop import DropPath  # takes a second to import, and only training needs it

            self.drop_path = DropPath(drop_path)

    def forward(
        self, x_BSD: Tensor, regions: Sequence[Grid], state: MLSTMState | None = None, return_state: bool = False
    ) -> tuple[Tensor, MLSTMState | None]:
        """Tokens in, tokens out, both in storage order; see :meth:`ViLLayer.forward`."""
        normed = self.norm(x_BSD)
        if not self.reverse:
            y, state = self.layer(normed, regions, state, return_state)
        elif self.flip_all:
            y, state = self.layer(normed.flip(1), tuple(reversed(regions)), state, return_state)
            y = y.flip(1)
        else:
            y, state = self.layer(reverse_regions(normed, regions), regions, state, return_state)
            y = reverse_regions(y, regions)
        return x_BSD + self.drop_path(y), state


def reverse_regions(x_BSD: Tensor, regions: Sequence[Grid]) -> Tensor:
    """Reverse the tokens of each region inside itself; the regions keep their order."""
    if len(regions) == 1:
        return x_BSD.flip(1)
    sizes = [rows * columns for rows, columns in regions]
    return torch.cat([part.flip(1) for part in x_BSD.split(sizes, dim=1)], dim=1)


class ViL(nn.Module):
    """Stem (images to a (B, D, h, w) grid), position embedding, alternating sublayers from the top left, and norm."""

    def __init__(
        self, *, stem: nn.Module, pos_embed: PositionEmbedding, sublayers: Sequence[ViLSublayer], dim: int
    ) -> None:
        super().__init__()
        self.patch_embed = stem
        self.pos_embed = pos_embed
        self.sublayers = nn.ModuleList(sublayers)
        self.norm = OffsetLayerNorm(dim, eps=1e-6)
        self.grad_checkpointing = False  # recompute each sublayer in the backward pass, keep no activations

    def embed(self, image: Tensor, pos_embed: PositionEmbedding | None = None) -> tuple[Tensor, Grid]:
        """Stem and position embedding (the image's own by default): tokens (B, h * w, D) and their grid (h, w)."""
        features = self.patch_embed(image)
        grid = (features.shape[2], features.shape[3])
        position = (self.pos_embed if pos_embed is None else pos_embed)(grid)
        return rearrange(features, "b d h w -> b (h w) d") + position, grid

    def scan(
        self,
        x_BSD: Tensor,
        regions: Sequence[Grid],
        memory: Memory | None = None,
        *,
        return_memory: bool = False,
        after: Callable[[int, Tensor], Tensor] | None = None,
    ) -> tuple[Tensor, Memory | None]:
        """Run every sublayer over the tokens (B, S, D) of ``regions``, grids in order, without the final norm.

        Args:
            memory: one state per sublayer to continue from.
            return_memory: also return one state per sublayer (None otherwise).
            after: called with a sublayer's index and its output; what it returns is passed on.
        """
        states: list[MLSTMState] = []
        recompute = self.grad_checkpointing and self.training and torch.is_grad_enabled()
        for index, sublayer in enumerate(self.sublayers):
            state = memory[index] if memory is not None else None
            if recompute:
                x_BSD, state = checkpoint(sublayer, x_BSD, regions, state, return_memory, use_reentrant=False)
            else:
                x_BSD, state = sublayer(x_BSD, regions, state, return_memory)
            if state is not None and return_memory:
                states.append(state)
            if after is not None:
                x_BSD = after(index, x_BSD)
        return x_BSD, tuple(states) if return_memory else None

    def forward(self, image: Tensor) -> Tensor:
        """The official backbone over one image, (B, 3, H, W) -> tokens (B, S, D) after the final norm."""
        x_BSD, grid = self.embed(image)
        x_BSD, _ = self.scan(x_BSD, (grid,))
        return self.norm(x_BSD)


def build_vil(
    *,
    dim: int,
    depth: int,
    position_1HWD: Tensor | None = None,
    patch_size: int = 16,
    stem: str = "patch",
    drop_path: float = 0.0,
    scan: str = "prefix",
) -> ViL:
    """A backbone with the reference's initialisation; the defaults after ``depth`` are the official architecture.

    Args:
        position_1HWD: initial position embedding; None draws the official one of 14 × 14.
        patch_size: pixels per token along each side, for the stem "patch"; others are "conv" and "mobile".
        drop_path: stochastic depth rate of the last sublayer, rising linearly from 0.
        scan: "prefix", or "flip": odd sublayers reverse the whole sequence, regions included.
    """
    return ViL(
        stem=build_stem(stem, dim, patch_size),
        pos_embed=PositionEmbedding(initial_position_embedding(dim) if position_1HWD is None else position_1HWD),
        sublayers=[
            ViLSublayer(
                dim, reverse=index % 2 == 1, drop_path=drop_path * index / max(depth - 1, 1), flip_all=scan == "flip"
            )
            for index in range(depth)
        ],
        dim=dim,
    )
