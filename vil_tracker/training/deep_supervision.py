"""Deep supervision: probes that ask search tokens, at several depths, whether they lie on the target.

A score map has one positive cell, a far signal for the sublayers below; on its own it left the template unread for
thousands of pairs, while the network got by on guessing the salient object. The probes (Lee et al., "Deeply-Supervised
Nets", AISTATS 2015) belong to training alone: they are in the checkpoints, never in the weights.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vil_tracker.models.network import ViLTrackerNet, cell_coverage


class SublayerProbes(nn.Module):
    """Asks the tokens of some sublayers, whose zero-based indices are ``depths``."""

    depths: tuple[int, ...]

    def register_hooks(self, network: ViLTrackerNet) -> list[Tensor]:
        """Have the network's sublayers put their tokens, (B, S, D) each, into the returned list at every pass."""
        seen: list[Tensor] = []
        for depth in self.depths:
            network.backbone.sublayers[depth].register_forward_hook(
                lambda module, inputs, output: seen.append(output[0])
            )
        return seen


class ForegroundProbes(SublayerProbes):
    """One linear probe after every second sublayer, of tokens ``dim`` wide, of the deeper two thirds of a backbone."""

    def __init__(self, dim: int, depth: int) -> None:
        super().__init__()
        self.depths = tuple(range(depth // 3 - 1 if depth >= 3 else 0, depth, 2))
        self.probes = nn.ModuleList(nn.Sequential(nn.LayerNorm(dim), nn.Linear(dim, 1)) for _ in self.depths)
        for probe in self.probes:
            nn.init.zeros_(probe[1].weight)  # type: ignore[index,arg-type]
            nn.init.constant_(probe[1].bias, -2.0)  # type: ignore[index,arg-type]  # few tokens lie on the target

    def forward(self, seen: list[Tensor], boxes_B4: Tensor, present_B: Tensor, grid: int) -> Tensor:
        """Cross-entropy between the probes' answers and each cell's share of the box, summed over depths.

        Args:
            seen: tokens after each of ``depths``, the search region's last.
            boxes_B4: truth, xyxy in units of the search crop.
            present_B: bool; where False no cell lies on the target.
            grid: cells along each side of the search region.
        """
        inside_BS = cell_coverage(boxes_B4.float(), (grid, grid)) * present_B[:, None].float()
        weight_BS = 1 + 2 * inside_BS  # the few positive cells count for more
        total = boxes_B4.new_zeros((), dtype=inside_BS.dtype)
        for probe, tokens_BSD in zip(self.probes, seen, strict=True):
            logits_BS = probe(tokens_BSD[:, -grid * grid :].float()).squeeze(-1)
            total = total + F.binary_cross_entropy_with_logits(logits_BS, inside_BS, weight_BS)
        return total
