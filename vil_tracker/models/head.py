"""Centre head (Ye et al., "Joint Feature Learning and Relation Modeling for Tracking", OSTrack, 2022)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

MIN_SIZE = 1e-3  # of the crop; keeps decoded boxes from collapsing to a point
FOCAL_PRIOR = 0.01


def _tower(dim: int, channels: int, outputs: int) -> nn.Sequential:
    """Three 3x3 convolutions, each halving the width, and a 1x1 output."""
    widths = [dim, channels, channels // 2, channels // 4]
    layers: list[nn.Module] = []
    for inputs, width in zip(widths[:-1], widths[1:], strict=True):
        layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.GroupNorm(4, width), nn.GELU()]
        nn.init.kaiming_normal_(layers[-3].weight, nonlinearity="relu")  # type: ignore[arg-type]
    output = nn.Conv2d(widths[-1], outputs, 1)
    nn.init.normal_(output.weight, std=0.01)
    nn.init.zeros_(output.bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers, output)


class CentreHead(nn.Module):
    """Three towers over the search grid of tokens of width ``dim``: score map, offset inside the cell, size.

    ``channels`` is the width of the towers' first convolution; halved at each later one.
    """

    def __init__(self, dim: int, channels: int) -> None:
        super().__init__()
        self.score = _tower(dim, channels, 1)
        self.offset = _tower(dim, channels, 2)
        self.size = _tower(dim, channels, 2)
        # Almost every cell is background: start from that prior (Lin et al., "Focal Loss", 2017).
        nn.init.constant_(self.score[-1].bias, -math.log((1 - FOCAL_PRIOR) / FOCAL_PRIOR))  # type: ignore[arg-type]

    def forward(self, features_BDHW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Maps over the grid, all float32 or wider: score logits (B, 1, h, w); offset (B, 2, h, w), x and y in [0, 1]
        of a cell; size (B, 2, h, w), width and height in [0, 1] of the crop.
        """
        score, offset, size = (tower(features_BDHW) for tower in (self.score, self.offset, self.size))
        dtype = torch.promote_types(score.dtype, torch.float32)
        return score.to(dtype), offset.to(dtype).sigmoid(), size.to(dtype).sigmoid()


def decode_maps(
    score_logits: Tensor, offset: Tensor, size: Tensor, window: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The box at the best cell of score × window.

    The score logits are (B, 1, h, w); the offset (B, 2, h, w) in [0, 1] of a cell, the size (B, 2, h, w) in [0, 1] of
    the crop; the window (h, w) or broadcastable, None weighs all alike.

    Returns:
        boxes (B, 4), x1 y1 x2 y2 in units of the crop, finite, with x2 > x1 and y2 > y1; they may reach outside
        [0, 1]. Scores (B,): sigmoid of the best cell's logit, without the window.
    """
    rows, columns = score_logits.shape[-2:]
    score_BS = score_logits.float().sigmoid().flatten(1).nan_to_num(0.0)  # a NaN would be taken for the maximum
    weighted_BS = score_BS if window is None else (score_BS.view(-1, rows, columns) * window.to(score_BS)).flatten(1)
    best_B1 = weighted_BS.argmax(dim=1, keepdim=True)
    index_B21 = best_B1[:, None].expand(-1, 2, -1)
    offset_B2 = offset.float().flatten(2).gather(2, index_B21).squeeze(2).nan_to_num(0.5)
    size_B2 = size.float().flatten(2).gather(2, index_B21).squeeze(2).nan_to_num(0.0).clamp(MIN_SIZE, 1.0)
    x_B1, y_B1 = (best_B1 % columns + offset_B2[:, :1]) / columns, (best_B1 // columns + offset_B2[:, 1:]) / rows
    centre_B2 = torch.cat([x_B1, y_B1], dim=1)
    boxes_B4 = torch.cat([centre_B2 - size_B2 / 2, centre_B2 + size_B2 / 2], dim=1)
    return boxes_B4, score_BS.gather(1, best_B1).squeeze(1)


def hann_window(grid: int, strength: float) -> torch.Tensor:
    """(grid, grid): (1 - strength) + strength · outer Hann, whose maximum lies at the centre of the crop."""
    hann = torch.hann_window(grid + 2, periodic=False, dtype=torch.float32)[1:-1]
    return (1 - strength) + strength * torch.outer(hann, hann)
