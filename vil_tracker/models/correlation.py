"""A second opinion beside the mLSTM's: what the search region's features say when each is compared with each of the
template's, as in NanoTrack V3 (H. Chu, SiamTrackers, 2023), whose trained weights :func:`load_correlation` reads.

Pixel-wise correlation follows Yan et al., "Alpha-Refine" (CVPR 2021), depth-wise correlation Li et al., "SiamRPN++"
(CVPR 2019), the boxes Chen et al., "SiamBAN" (CVPR 2020). Shapes: B batch, C = 96 channels of the mobile stem's
features, on 8 × 8 cells of the template and, of a square search crop, on 16 × 16. An opinion is five maps over the
search grid, (B, 5, h, w): the logit of the target's lying there, and its box, x1 y1 x2 y2 in units of the crop.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import einsum
from torch import Tensor, nn

from vil_tracker.models.stem import MOBILE_CHANNELS, read_nanotrack_layers
from vil_tracker.models.vil import Grid

TEMPLATE_CELLS, SEARCH_CELLS = 8, 16  # that the weights were trained with, along each side
STRIDE = 16  # pixels between cells
FIRST_POINT = 15.5  # pixels from the crop's edge to the first point that boxes are measured from
KERNEL = 4  # cells along each side in the middle of the template, of the depth-wise correlation
TOWER_DEPTH = 6
FARTHEST = 8.0  # logarithm of pixels that a side of a box is away at most: many crops, and finite


class PixelCorrelation(nn.Module):
    """Each template cell is a kernel of 1 × 1 over the search region, each of the 64 answers a channel, weighted by
    squeeze-and-excitation and brought to the 15 × 15 points between the cells.
    """

    def __init__(self) -> None:
        super().__init__()
        kernels = TEMPLATE_CELLS**2
        self.template, self.search = _pointwise(MOBILE_CHANNELS), _pointwise(MOBILE_CHANNELS)
        self.squeeze, self.excite = _pointwise(kernels), _pointwise(kernels)
        self.depthwise = nn.Conv2d(kernels, kernels, 2, groups=kernels)
        self.project = _pointwise(kernels)

    def forward(self, template_BCtt: Tensor, search_BChw: Tensor) -> Tensor:
        kernels, cells = self.template(template_BCtt).flatten(2), self.search(search_BChw)
        answers = einsum(kernels, cells, "b c k, b c h w -> b k h w")
        share = self.excite(F.relu(self.squeeze(answers.mean((2, 3), keepdim=True)))).sigmoid()
        return self.project(F.relu6(self.depthwise(answers * share)))


class DepthwiseCorrelation(nn.Module):
    """The middle of the template as a kernel of 4 × 4, channel by channel, at the same 15 × 15 points."""

    def __init__(self) -> None:
        super().__init__()
        self.template, self.search = _pointwise(MOBILE_CHANNELS), _pointwise(MOBILE_CHANNELS)

    def forward(self, template_BCtt: Tensor, search_BChw: Tensor) -> Tensor:
        edge = (TEMPLATE_CELLS - KERNEL) // 2
        kernel = self.template(template_BCtt[..., edge : edge + KERNEL, edge : edge + KERNEL])
        cells = F.pad(self.search(search_BChw), (1, 1, 1, 1))
        rows, columns = search_BChw.shape[2] - 1, search_BChw.shape[3] - 1
        # As sums of shifted products: a grouped convolution could not be exported for any batch size.
        answers = cells.new_zeros(())
        for y, x in itertools.product(range(KERNEL), repeat=2):
            answers = answers + cells[..., y : y + rows, x : x + columns] * kernel[..., y : y + 1, x : x + 1]
        return answers


class CorrelationTower(nn.Module):
    """Both correlations, joined, and a tower of separable convolutions: (B, ``outputs``, h - 1, w - 1)."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.pixel, self.depth = PixelCorrelation(), DepthwiseCorrelation()
        self.join = nn.Conv2d(TEMPLATE_CELLS**2 + MOBILE_CHANNELS, MOBILE_CHANNELS, 1)
        layers: list[nn.Module] = []
        for _ in range(TOWER_DEPTH):
            depthwise = nn.Conv2d(MOBILE_CHANNELS, MOBILE_CHANNELS, 3, padding=1, groups=MOBILE_CHANNELS)
            layers += [depthwise, nn.ReLU6(), _pointwise(MOBILE_CHANNELS)]
        self.tower = nn.Sequential(*layers)
        self.predict = nn.Conv2d(MOBILE_CHANNELS, outputs, 1)

    def forward(self, template_BCtt: Tensor, search_BChw: Tensor) -> Tensor:
        joined = torch.cat([part(template_BCtt, search_BChw) for part in (self.pixel, self.depth)], dim=1)
        return self.predict(self.tower(self.join(joined)))


class CorrelationBranch(nn.Module):
    """Compares the stem's features of a search crop with the template's, and says where the target is."""

    def __init__(self) -> None:
        super().__init__()
        self.score = CorrelationTower(2)  # logits of background and target
        self.box = CorrelationTower(4)  # logarithms of the distances to left, top, right and bottom in pixels

    def forward(self, template_BCtt: Tensor, search_BChw: Tensor, grid: Grid) -> Tensor:
        """The opinion on the cells of ``grid``, from the stem's features of a template (B, C, 8, 8) and of the search
        crop, which may be on another grid.
        """
        background, target = self.score(template_BCtt, search_BChw).split(1, dim=1)
        maps_B5pq = torch.cat([target - background, self.box(template_BCtt, search_BChw)], dim=1)
        return opinion_on_cells(maps_B5pq.to(torch.promote_types(maps_B5pq.dtype, torch.float32)), grid)


def opinion_on_cells(maps_B5pq: Tensor, grid: Grid) -> Tensor:
    """The opinion on the cells of ``grid``, from logits and logarithms of distances at the points between the cells."""
    logit_B1pq, reach_B4pq = maps_B5pq.split([1, 4], dim=1)
    reach_B4pq = reach_B4pq.clamp(max=FARTHEST).exp()
    y, x = (
        torch.arange(points, device=reach_B4pq.device, dtype=reach_B4pq.dtype) * STRIDE + FIRST_POINT
        for points in maps_B5pq.shape[2:]
    )
    height, width = ((points + 1) * STRIDE for points in maps_B5pq.shape[2:])
    left, top, right, bottom = reach_B4pq.unbind(1)
    boxes = torch.stack(
        [(x - left) / width, (y[:, None] - top) / height, (x + right) / width, (y[:, None] + bottom) / height], dim=1
    )
    return points_to_cells(torch.cat([logit_B1pq, boxes], dim=1), (height, width), grid)


def resized_for_correlation(crops: Tensor, size: int, cells: int) -> Tensor:
    """Crops (B, 3, H, W) at the scale at which one of ``size`` pixels a side has ``cells`` cells."""
    sides = tuple(STRIDE * max(round(side * cells / size), 2) for side in crops.shape[2:])
    if tuple(crops.shape[2:]) == sides:
        return crops
    return F.interpolate(crops, sides, mode="bilinear", align_corners=False)


def mean_of_opinions(
    score_logits: Tensor, offset: Tensor, size: Tensor, opinion_B5hw: Tensor, share: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Maps as the centre head gives them, each the mean of the head's and, with weight ``share``, of an opinion: of the
    logits, of the boxes' centres, and of the logarithms of their sizes. The offset may lie outside of [0, 1].
    """
    rows, columns = score_logits.shape[-2:]
    logit, x1, y1, x2, y2 = opinion_B5hw.unbind(1)
    column = torch.arange(columns, device=x1.device, dtype=x1.dtype)
    row = torch.arange(rows, device=x1.device, dtype=x1.dtype)[:, None]
    there = torch.stack([(x1 + x2) / 2 * columns - column, (y1 + y2) / 2 * rows - row], dim=1)
    extent = torch.stack([x2 - x1, y2 - y1], dim=1).clamp(1e-3, 1.0)
    sizes = torch.lerp(size.clamp(min=1e-3).log(), extent.log(), share).exp()
    return torch.lerp(score_logits, logit[:, None], share), torch.lerp(offset, there, share), sizes


def load_correlation(branch: CorrelationBranch, path: Path) -> None:
    """Read the weights of NanoTrack V3's head, an ONNX file. UserError where the package ``onnx`` is missing, or the
    file is not that network.
    """
    towers = branch.box, branch.score
    layers: list[nn.Module] = []
    for tower in towers:
        pixel = tower.pixel
        layers += [pixel.template, pixel.search, pixel.squeeze, pixel.excite, pixel.depthwise, pixel.project]
    for tower in towers:
        layers += [tower.depth.template, tower.depth.search]
    layers += [tower.join for tower in towers]
    for tower in reversed(towers):
        layers += [*(layer for layer in tower.tower if isinstance(layer, nn.Conv2d)), tower.predict]
    read_nanotrack_layers(layers, path, "nanotrack_head.onnx")


def _pointwise(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, channels, 1)


def points_to_cells(maps: Tensor, sides: Grid, grid: Grid) -> Tensor:
    """Maps (B, N, points, points) over a crop of ``sides`` pixels, interpolated at the centres of a grid's cells."""
    rows, columns = (
        torch.from_numpy(_interpolation(side, cells)).to(maps) for side, cells in zip(sides, grid, strict=True)
    )
    with torch.autocast(maps.device.type, enabled=False):  # in bfloat16, boxes would be a pixel off
        return rows @ maps @ columns.mT


def _interpolation(side: int, cells: int) -> np.ndarray:
    """(cells, points): the weights of the points along a side of the crop at the centres of its cells, linear between
    points and constant beyond the outermost.
    """
    count = side // STRIDE - 1
    places = ((np.arange(cells) + 0.5) * side / cells - FIRST_POINT) / STRIDE
    return np.maximum(1 - np.abs(np.clip(places, 0, count - 1)[:, None] - np.arange(count)), 0)
