"""Temporal modulation of the search tokens by feature-wise affine maps.

Perez et al., "FiLM: Visual Reasoning with a General Conditioning Layer", 2018: every channel of every search token is
scaled and shifted, conditioned on an exponential moving average of the features of the frames before.

The average is over detached raw features, and is projected when it modulates: an affine map commutes with a convex
combination, so inference sees the same function, while in training the projection, the calibrator and the FiLM nets
all learn from each frame and no gradient crosses from one frame to the next. The context of a video is an explicit
:class:`TemporalContext` that the tracking session holds; the manager's own running context is a default for a caller
that tracks a single video.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

MOMENTUM = 0.7  # share of the old context in the moving average


@dataclass(frozen=True)
class TemporalContext:
    """What a session remembers of the search features of the frames before. Holds no gradient."""

    features: Tensor  # moving average of raw search features, (B, S, D), row-major over ``grid``
    valid: Tensor  # how far each token's place has been seen, (B, S, 1) in [0, 1]
    grid: tuple[int, int]  # (rows, columns), rows * columns = S
    crops: Tensor  # of the search crop that the tokens lie in, (B, 3): centre x, centre y, side in image pixels


class TemporalReliabilityCalibrator(nn.Module):
    """How far the temporal context of each token can be trusted."""

    def __init__(self, dim: int = 384) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(dim, dim // 4), nn.GELU(), nn.Linear(dim // 4, 1), nn.Sigmoid())

    def forward(self, temporal_feat: Tensor) -> Tensor:
        """(B, S, D) -> reliability (B, S, 1) in [0, 1]."""
        return self.net(temporal_feat)


class FiLMTemporalModulation(nn.Module):
    """gamma * x + beta, with gamma and beta from the temporal context. The identity at initialisation."""

    def __init__(self, dim: int = 384) -> None:
        super().__init__()
        self.gamma_net = nn.Sequential(nn.Linear(dim, dim // 4), nn.GELU(), nn.Linear(dim // 4, dim))
        self.beta_net = nn.Sequential(nn.Linear(dim, dim // 4), nn.GELU(), nn.Linear(dim // 4, dim))
        for net, bias in ((self.gamma_net, 1.0), (self.beta_net, 0.0)):
            last = net[-1]
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]
            nn.init.constant_(last.bias, bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor, temporal_context: Tensor, reliability: Tensor | None = None) -> Tensor:
        """Modulate ``x`` (B, S, D) by ``temporal_context`` (B, S, D), drawn to the identity as ``reliability``
        (B, S, 1 or D) goes to 0.
        """
        gamma, beta = self.gamma_net(temporal_context), self.beta_net(temporal_context)
        if reliability is not None:
            gamma = reliability * gamma + (1 - reliability)
            beta = reliability * beta
        return gamma * x + beta


class TemporalModulationManager(nn.Module):
    """The FiLM layers of a backbone (one after every ``modulation_interval`` of its ``num_blocks`` sublayers), the
    projection of the context and its reliability, for tokens of width ``dim``.

    ``modulate`` and ``update_temporal_context`` keep a running context of one video in ``_temporal_context``, the
    moving average of raw features (B, S, D), None before the first update; it is no parameter and no buffer. A caller
    with several videos passes each one's :class:`TemporalContext` to ``condition`` and ``apply_film`` instead.
    """

    def __init__(self, dim: int = 384, num_blocks: int = 24, modulation_interval: int = 6) -> None:
        super().__init__()
        self.num_blocks = num_blocks
        self.modulation_interval = modulation_interval
        self.film_layers = nn.ModuleList(FiLMTemporalModulation(dim) for _ in range(num_blocks // modulation_interval))
        self.reliability = TemporalReliabilityCalibrator(dim)
        self.context_proj = nn.Linear(dim, dim)
        self._temporal_context: Tensor | None = None
        self._temporal_grid: tuple[int, int] | None = None

    def should_modulate(self, block_idx: int) -> bool:
        """Whether a FiLM layer follows the sublayer of this zero-based index."""
        return 0 <= block_idx < self.num_blocks and (block_idx + 1) % self.modulation_interval == 0

    def get_film_layer(self, block_idx: int) -> FiLMTemporalModulation | None:
        """The FiLM layer after this sublayer, or None."""
        if not self.should_modulate(block_idx):
            return None
        return self.film_layers[block_idx // self.modulation_interval]  # type: ignore[return-value]

    def condition(self, context: TemporalContext, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Project a context, which must lie in the current crop (:func:`register_context`), for the tokens of ``grid``:
        features (B, S, D) and reliability (B, S, 1). One on another grid is resized in two dimensions.
        """
        context = resize_context(context, grid)
        projected = self.context_proj(context.features)
        return projected, self.reliability(projected) * context.valid

    def apply_film(self, x: Tensor, block_idx: int, condition: tuple[Tensor, Tensor]) -> Tensor:
        """Modulate search tokens (B, S, D) after sublayer ``block_idx``; at other sublayers returns ``x`` itself."""
        film = self.get_film_layer(block_idx)
        return x if film is None else film(x, *condition)

    def update_temporal_context(
        self, features: Tensor, *, grid: tuple[int, int] | None = None, weight: float = 1.0
    ) -> None:
        """Take a frame's search features (B, S, D) into the running context of the one video; no gradient is kept.

        Args:
            grid: their (rows, columns); a square by default.
            weight: how far the frame is trusted, in [0, 1]; 0 leaves the context as it is.

        Raises:
            ValueError: another batch size than the running context's, or no square of tokens without ``grid``.
        """
        grid = _grid_of(features, grid)
        self._check_batch(features)
        if weight <= 0:
            return
        features = features.detach()
        if self._temporal_context is None or self._temporal_grid is None:
            self._temporal_context = features.clone()
        else:
            old = resize_tokens(self._temporal_context, self._temporal_grid, grid).to(features)
            self._temporal_context = torch.lerp(old, features, (1 - MOMENTUM) * min(weight, 1.0))
        self._temporal_grid = grid

    def modulate(self, x: Tensor, block_idx: int, *, grid: tuple[int, int] | None = None) -> Tensor:
        """Modulate search tokens (B, S, D) by the running context; before the first update, and after sublayers
        without a FiLM layer, returns ``x`` itself. Raises as :meth:`update_temporal_context`.
        """
        film = self.get_film_layer(block_idx)
        if film is None or self._temporal_context is None or self._temporal_grid is None:
            return x
        self._check_batch(x)
        context = resize_tokens(self._temporal_context, self._temporal_grid, _grid_of(x, grid)).to(x)
        projected = self.context_proj(context)
        return film(x, projected, self.reliability(projected))

    def reset(self) -> None:
        """Forget the running context: the next video starts from nothing."""
        self._temporal_context = None
        self._temporal_grid = None

    def _check_batch(self, tokens: Tensor) -> None:
        context = self._temporal_context
        if context is not None and context.shape[0] != tokens.shape[0]:
            raise ValueError(
                f"the running temporal context is of a batch of {context.shape[0]}, the tokens of {tokens.shape[0]}: "
                "call reset() between videos, or give each video its own TemporalContext"
            )


def _grid_of(tokens: Tensor, grid: tuple[int, int] | None) -> tuple[int, int]:
    count = tokens.shape[1]
    if grid is None:
        side = math.isqrt(count)
        grid = (side, side)
    if grid[0] * grid[1] != count:
        raise ValueError(f"{count} tokens do not fill a grid of {grid[0]} × {grid[1]}: pass their grid")
    return grid


def resize_tokens(tokens: Tensor, grid: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Resize row-major tokens (B, S, D) of ``grid`` to the grid ``size``, bilinearly in two dimensions."""
    if grid == size:
        return tokens
    image = rearrange(tokens, "b (h w) d -> b d h w", h=grid[0])
    image = F.interpolate(image, size=size, mode="bilinear", align_corners=False)
    return rearrange(image, "b d h w -> b (h w) d")


def resize_context(context: TemporalContext, grid: tuple[int, int]) -> TemporalContext:
    """The context on another grid over the same crop."""
    if context.grid == grid:
        return context
    return replace(
        context,
        features=resize_tokens(context.features, context.grid, grid),
        valid=resize_tokens(context.valid, context.grid, grid),
        grid=grid,
    )


def register_context(context: TemporalContext, crops: Tensor, grid: tuple[int, int]) -> TemporalContext:
    """Resample a context to where the tokens of another search crop lie in the image.

    ``crops`` is the geometry of the crop to come, (B, 3): centre x, centre y, side in image pixels; ``grid`` its grid.
    Places that were out of view have ``valid`` 0. A context whose own ``crops`` these are is returned as it is.
    """
    if crops is context.crops and grid == context.grid:
        return context
    old, new = context.crops, crops.to(context.crops)
    scale_B = new[:, 2] / old[:, 2]
    shift_B2 = 2 * (new[:, :2] - old[:, :2]) / old[:, 2:]
    theta = torch.zeros(len(old), 2, 3, dtype=old.dtype, device=old.device)
    theta[:, 0, 0] = theta[:, 1, 1] = scale_B
    theta[:, :, 2] = shift_B2
    # Positions are computed in the crops' own precision; [-1, 1] spans the old crop from edge to edge.
    where = F.affine_grid(theta, [len(old), 1, *grid], align_corners=False)
    in_view = (where.abs() <= 1 + 1e-6).all(dim=-1)[:, None]
    stacked = torch.cat([context.features, context.valid], dim=-1)
    image = rearrange(stacked, "b (h w) d -> b d h w", h=context.grid[0])
    with torch.autocast(image.device.type, enabled=False):
        image = F.grid_sample(image, where.to(image), mode="bilinear", padding_mode="border", align_corners=False)
    tokens = rearrange(image, "b d h w -> b (h w) d")
    valid = tokens[..., -1:].clamp(0, 1) * rearrange(in_view, "b 1 h w -> b (h w) 1")
    return TemporalContext(tokens[..., :-1], valid, grid, new)


def unregistered_context(context: TemporalContext | None, crops: Tensor) -> TemporalContext | None:
    """The context as if it had been seen in ``crops``, (B, 3), so that registering it there leaves it as it is.

    What a tracker without registration does: for ablations.
    """
    return None if context is None else replace(context, crops=crops.detach().to(context.crops))


def updated_context(
    context: TemporalContext | None,
    features: Tensor,
    grid: tuple[int, int],
    crops: Tensor,
    weight_B: Tensor | None = None,
) -> TemporalContext:
    """Take a frame's search features into a context: 0.7 old + 0.3 new where the place was seen before, the new
    features where it was not.

    Args:
        context: the context so far, in whatever crop; None before the first frame.
        features: raw search features of the frame, (B, S, D) over ``grid`` (rows, columns); no gradient is kept.
        crops: geometry of the frame's search crop, (B, 3): centre x, centre y, side in image pixels.
        weight_B: how far each frame is trusted, (B,) in [0, 1]; None is 1. An unconfident tracker passes 0, which
            leaves that video's context as it was, in its old crop.
    """
    features = features.detach()
    crops = crops.detach() if crops.requires_grad else crops
    if weight_B is None:
        seen = features.new_ones(len(features), features.shape[1], 1)
        if context is None:
            return TemporalContext(features, seen, grid, crops)
        old = register_context(context, crops, grid)
        rate = (1 - MOMENTUM) / (1 - MOMENTUM + old.valid * MOMENTUM)
        return TemporalContext(torch.lerp(old.features, features.to(old.features), rate), seen, grid, old.crops)
    weight_B11 = weight_B.detach().to(features).clamp(0, 1)[:, None, None]
    if context is None:
        return TemporalContext(features, weight_B11.expand(-1, features.shape[1], 1).contiguous(), grid, crops)
    taught_B11 = weight_B11 > 0
    crops = torch.where(taught_B11[..., 0], crops.to(context.crops), context.crops)
    old = register_context(context, crops, grid)
    kept = resize_context(context, grid)
    # The share of the new features: 0.3 of the weight where the old ones are good, all where there are none.
    share_B11 = (1 - MOMENTUM) * weight_B11
    rate = share_B11 / (share_B11 + old.valid * (1 - share_B11)).clamp(min=torch.finfo(features.dtype).tiny)
    return TemporalContext(
        torch.where(taught_B11, torch.lerp(old.features, features.to(old.features), rate), kept.features),
        torch.where(taught_B11, torch.maximum(old.valid, weight_B11), kept.valid),
        grid,
        crops,
    )
