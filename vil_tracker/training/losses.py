"""The three losses of a centre head: focal on the score map, GIoU and L1 on the box (OSTrack's weights 1, 2, 5)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_convert

from vil_tracker.config import TrainConfig
from vil_tracker.models.network import NetworkOutput

MIN_SIZE = 1e-3  # of the crop; truth and prediction are kept above it so that every ratio is finite

Terms = dict[str, Tensor]  # the parts of a loss by name, detached scalars


def gaussian_heatmap(boxes_B4: Tensor, grid: int, min_overlap: float = 0.7) -> Tensor:
    """Score-map target (B, grid, grid) in [0, 1]: a Gaussian around the cell that holds the centre of a box, xyxy in
    units of the crop, exactly 1 there.

    The radius is CornerNet's (Law and Deng, ECCV 2018): a box moved by it still overlaps the truth by ``min_overlap``;
    of its three cases this is the closed form for one corner in and one out, floored so that small boxes get the
    neighbouring cells too. σ is a third of the diameter.
    """
    w, h = ((boxes_B4[:, 2:] - boxes_B4[:, :2]).clamp(min=MIN_SIZE) * grid).unbind(-1)
    b = h + w
    c = w * h * (1 - min_overlap) / (1 + min_overlap)
    radius = (b - (b * b - 4 * c).clamp(min=0).sqrt()) / 2
    sigma = ((2 * radius + 1) / 6).clamp(min=0.5)
    cell = centre_cell(boxes_B4, grid)
    steps = torch.arange(grid, device=boxes_B4.device)
    dx2 = (steps - (cell % grid)[:, None]).square()
    dy2 = (steps - (cell // grid)[:, None]).square()
    distance2 = dy2[:, :, None] + dx2[:, None, :]
    return torch.exp(-distance2 / (2 * sigma.square())[:, None, None])


def centre_cell(boxes_B4: Tensor, grid: int) -> Tensor:
    """Flat index (B,) of the cell that holds each box's centre; centres outside the crop count to the nearest cell."""
    centre = (boxes_B4[:, :2] + boxes_B4[:, 2:]) / 2
    x, y = (centre * grid).long().clamp(0, grid - 1).unbind(-1)
    return y * grid + x


def focal_loss(logits_Bgg: Tensor, target_Bgg: Tensor) -> Tensor:
    """CenterNet's penalty-reduced focal loss (Zhou et al. 2019, eq. 1; α = 2, β = 4), per image, (B,)."""
    log_p, log_not_p = F.logsigmoid(logits_Bgg), F.logsigmoid(-logits_Bgg)
    p = log_p.exp()
    positive = target_Bgg >= 1
    pull = -log_p * (1 - p).square()
    push = -log_not_p * p.square() * (1 - target_Bgg).pow(4)
    return torch.where(positive, pull, push).flatten(1).sum(1)


def giou_loss(found_B4: Tensor, truth_B4: Tensor) -> Tensor:
    """1 - GIoU (Rezatofighi et al., CVPR 2019) of boxes xyxy, (B,).

    As torchvision's ``generalized_box_iou_loss``, whose mask of overlapping boxes makes the host wait for the device.
    """
    sides = torch.minimum(found_B4[:, 2:], truth_B4[:, 2:]) - torch.maximum(found_B4[:, :2], truth_B4[:, :2])
    inside = torch.where((sides > 0).all(dim=1), sides[:, 0] * sides[:, 1], 0.0)
    areas = [(box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) for box in (found_B4, truth_B4)]
    union = areas[0] + areas[1] - inside
    around = torch.maximum(found_B4[:, 2:], truth_B4[:, 2:]) - torch.minimum(found_B4[:, :2], truth_B4[:, :2])
    enclosing = around[:, 0] * around[:, 1]
    return 1 - (inside / (union + 1e-7) - (enclosing - union) / (enclosing + 1e-7))


def tracking_loss(
    output: NetworkOutput, boxes_B4: Tensor, present_B: Tensor, settings: TrainConfig
) -> tuple[Tensor, Terms]:
    """Total loss, a scalar, and its detached terms: ``focal``, ``giou``, ``l1``, ``iou`` (GIoU of the box at the true
    cell, floored at 0 and averaged over the images that hold the target).

    Box terms are read at the true centre's cell, so that they teach from the first step on, when the score map's own
    maximum is still anywhere. The size is also taught, by L1, at the cells around it: one of them may win at
    inference.

    Args:
        output: the network's maps, of g × g cells.
        boxes_B4: truth, xyxy in units of the crop.
        present_B: bool; where False the target is absent, the score map's target is 0 and there is no box term.
        settings: the weights of the three losses.
    """
    grid = output.score_logits.shape[-1]
    boxes = boxes_B4.float()
    boxes = torch.cat([boxes[:, :2], torch.maximum(boxes[:, 2:], boxes[:, :2] + MIN_SIZE)], dim=1)
    present = present_B.float()
    heat = gaussian_heatmap(boxes, grid) * present[:, None, None]
    focal = focal_loss(output.score_logits.float().squeeze(1), heat).mean()

    cell = centre_cell(boxes, grid)
    offset, size = output.offset.float().flatten(2), output.size.float().flatten(2)  # (B, 2, g²)
    index = cell[:, None, None].expand(-1, 2, 1)
    corner = torch.stack([cell % grid, cell // grid], dim=1)
    centre = (corner + offset.gather(2, index).squeeze(2)) / grid
    predicted = torch.cat([centre, size.gather(2, index).squeeze(2).clamp(min=MIN_SIZE)], dim=1)  # cxcywh
    truth = box_convert(boxes, "xyxy", "cxcywh")
    giou_B = giou_loss(box_convert(predicted, "cxcywh", "xyxy"), boxes)
    giou = (giou_B * present).mean()  # over all images, so that the mean over ranks is the mean of the global batch
    around = heat.flatten(1) * (heat.flatten(1) > 0.3)
    around = around / around.sum(1, keepdim=True).clamp(min=1e-6)
    size_error = (size - truth[:, 2:, None]).abs().sum(1)
    l1_B = (predicted - truth).abs().mean(1) + 0.5 * (size_error * around).sum(1)
    l1 = (l1_B * present).mean()

    total = settings.loss_focal * focal + settings.loss_giou * giou + settings.loss_l1 * l1
    with torch.no_grad():
        iou = ((1 - giou_B).clamp(min=0) * present).sum() / present.sum().clamp(min=1)
    return total, {"focal": focal.detach(), "giou": giou.detach(), "l1": l1.detach(), "iou": iou}
