"""A teacher of pairs: the dense features and the score map of NanoTrack V3 for the same crops.

Both networks cut the template at about twice and the search region at four times the target's size, so the cells of the
teacher's 255 px crop lie over the same picture as the student's grid. The student's tokens answer through projections
that belong to training alone, like the probes of deep supervision: they are in the checkpoints, never in the weights.
Feature distillation follows Romero et al., "FitNets" (2015).
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import box_iou

from vil_tracker.evaluation.nanotrack import CELLS, SEARCH_SIZE, STRIDE, TEMPLATE_SIZE, NanoTrackNetworks
from vil_tracker.training.deep_supervision import SublayerProbes

CHANNELS = 96  # of the teacher's features
AGREEMENT = 0.6  # overlap of the teacher's box with the truth from which on its score map is a target


class TeacherTargets(NamedTuple):
    """What the teacher says of B pairs.

    Attributes:
        template: features (B, 96, 8, 8).
        search: features (B, 96, 16, 16).
        score: (B, 15, 15) probability that a cell lies on the target; the cells are 16 px apart around the crop's
            centre, in a crop of 255 px.
        boxes: (B, 4) xyxy in units of the search crop, of the best cell.
    """

    template: Tensor
    search: Tensor
    score: Tensor
    boxes: Tensor


class Teacher:
    """NanoTrack V3, whose ONNX files lie in ``folder``, on crops of ours; errors as :class:`NanoTrackNetworks`."""

    def __init__(self, folder: Path) -> None:
        self._networks = NanoTrackNetworks(folder)

    def targets(self, templates_BTT3: np.ndarray, searches_BSS3: np.ndarray) -> TeacherTargets:
        """The teacher's answer to template and search crops, uint8 RGB of any size."""
        template = [self._features(crop, TEMPLATE_SIZE) for crop in templates_BTT3]
        search = [self._features(crop, SEARCH_SIZE) for crop in searches_BSS3]
        scores, boxes = zip(*map(self._locate, template, search), strict=True)
        columns = (np.concatenate(template), np.concatenate(search), np.stack(scores), np.stack(boxes))
        return TeacherTargets(*(torch.from_numpy(column.astype(np.float32)) for column in columns))

    def _features(self, crop: np.ndarray, size: int) -> np.ndarray:
        picture = cv2.resize(crop, (size, size), interpolation=cv2.INTER_LINEAR)[..., ::-1]
        return self._networks.features(picture)

    def _locate(self, template: np.ndarray, search: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        score, boxes = self._networks.locate(template, search)
        best = int(score.argmax())
        return score.reshape(CELLS, CELLS), boxes[:, best] / SEARCH_SIZE + 0.5


class TeacherLosses(NamedTuple):
    """Scalars.

    Attributes:
        features: smooth-L1 distance of projected tokens to the teacher's standardised features, over two depths.
        score: cross-entropy between the projected last tokens and the teacher's score map, over the pairs on which the
            teacher agrees with the truth.
        agreement: share of these pairs.
    """

    features: Tensor
    score: Tensor
    agreement: Tensor


class TeacherProjections(SublayerProbes):
    """What the student's tokens, ``dim`` wide after each of ``depth`` sublayers, are asked through."""

    def __init__(self, dim: int, depth: int) -> None:
        super().__init__()
        self.depths = (max(depth // 2 - 1, 0), max(depth - 3, 0), depth - 1)  # features twice, then the score map
        self.features = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, CHANNELS)) for _ in self.depths[:2]
        )
        self.score = nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 1))

    def forward(
        self,
        seen: list[Tensor],
        targets: TeacherTargets,
        boxes_B4: Tensor,
        present_B: Tensor,
        template_grid: int,
        search_grid: int,
    ) -> TeacherLosses:
        """Compare the tokens ``seen`` after each of ``depths``, in the order of the sublayers (one template, then the
        search region), with the teacher's targets, on the tokens' device.

        Args:
            boxes_B4: truth, xyxy in units of the search crop.
            present_B: bool, whether the search crop holds the target.
            template_grid, search_grid: cells along each side of the two regions.
        """
        wanted_BSC = torch.cat([on_grid(targets.template, template_grid), on_grid(targets.search, search_grid)], dim=1)
        features = wanted_BSC.new_zeros(())
        for projection, tokens_BSD in zip(self.features, seen[:-1], strict=True):
            features = features + F.smooth_l1_loss(projection(tokens_BSD.float()), wanted_BSC)

        agrees_B = (torch.diagonal(box_iou(targets.boxes, boxes_B4)) > AGREEMENT) & present_B
        soft_BS = score_on_grid(targets.score, search_grid)
        logits_BS = self.score(seen[-1][:, -search_grid * search_grid :].float()).squeeze(-1)
        weight_BS = 1 + 2 * soft_BS  # the few positive cells count for more
        score_B = F.binary_cross_entropy_with_logits(logits_BS, soft_BS, weight_BS, reduction="none").mean(1)
        return TeacherLosses(features, (score_B * agrees_B).mean(), agrees_B.float().mean())


def on_grid(features_BCHW: Tensor, grid: int) -> Tensor:
    """Features with mean 0 and variance 1 per channel over the batch, on a grid over the same crop: (B, grid², C)."""
    mean, std = features_BCHW.mean((0, 2, 3), keepdim=True), features_BCHW.std((0, 2, 3), keepdim=True)
    standardised = (features_BCHW - mean) / (std + 1e-4)
    resized = F.interpolate(standardised, (grid, grid), mode="bilinear", antialias=True)
    return resized.flatten(2).transpose(1, 2)


def score_on_grid(score_Bnn: Tensor, grid: int) -> Tensor:
    """The teacher's score map at the centres of grid × grid cells over the whole crop, (B, grid²); 0 beyond its
    outermost cells.
    """
    centre = (torch.arange(grid, device=score_Bnn.device) + 0.5) / grid - 0.5  # of the crop's side
    at = centre * SEARCH_SIZE / STRIDE / (CELLS // 2)  # in [-1, 1] between the outermost cells' centres
    where = torch.stack(torch.meshgrid(at, at, indexing="xy"), -1).expand(len(score_Bnn), -1, -1, -1)
    return F.grid_sample(score_Bnn[:, None], where.to(score_Bnn), padding_mode="zeros", align_corners=True).flatten(1)
