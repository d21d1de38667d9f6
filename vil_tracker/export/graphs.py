"""The two graphs of an exported tracker, as modules of tensors in and tensors out.

State stays outside, in the caller's hands. Memory is three tensors over all N sublayers: C (N, B, H, K, K), n (N, B, H,
K) and m (N, B, H); :func:`vil_tracker.models.exported.empty_memory` is that of no template. A network with correlation
has the features of the newest template beside them, (B, 96, 8, 8). The temporal context is registered to the crop at
hand before it comes in; ``context_valid`` 0 is no context.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vil_tracker.config import ModelConfig
from vil_tracker.models.exported import Stacked, empty_memory, stack_memory, unstack_memory
from vil_tracker.models.film_temporal import MOMENTUM, TemporalContext
from vil_tracker.models.head import decode_maps
from vil_tracker.models.network import ViLTrackerNet


class TemplateGraph(nn.Module):
    """Adds one template to a memory."""

    def __init__(self, network: ViLTrackerNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, crop: Tensor, box: Tensor, C: Tensor, n: Tensor, m: Tensor) -> Stacked:
        """The memory C, n, m (and features) with a template in it.

        The crop is normalised, (B, 3, Ht, Wt), the box of the target in it (B, 4) x1 y1 x2 y2 in [0, 1] of the crop.
        """
        return stack_memory(self.network.encode_templates(crop[:, None], box[:, None], unstack_memory(C, n, m)))


class FrameGraph(nn.Module):
    """Finds the target of a memory in a search crop."""

    def __init__(self, network: ViLTrackerNet) -> None:
        super().__init__()
        self.network = network
        side = network.config.search_size // network.config.patch_size
        self.grid = (side, side)

    def forward(
        self,
        crop: Tensor,
        C: Tensor,
        n: Tensor,
        m: Tensor,
        context: Tensor,
        context_valid: Tensor,
        window: Tensor,
        template: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """One frame.

        Args:
            crop: normalised, (B, 3, Hs, Ws).
            C, n, m: memory.
            context: temporal context in this crop, (B, S, D).
            context_valid: how far each token's place has been seen, (B, S, 1) in [0, 1].
            window: weights of the score map, (B, h, w).
            template: its features, with correlation.

        Returns boxes (B, 4) x1 y1 x2 y2 in units of the crop, scores (B,); the maps and features of
        :class:`vil_tracker.models.network.NetworkOutput`; the context after this frame (B, S, D), valid all over.
        """
        # The crop's place in the image matters to registration alone, which is the caller's.
        known = TemporalContext(context, context_valid, self.grid, context.new_zeros(1, 3))
        output = self.network.forward_search(crop, unstack_memory(C, n, m, template), known)
        boxes, scores = decode_maps(output.score_logits, output.offset, output.size, window)
        share = 1 - MOMENTUM
        rate = share / (share + context_valid * MOMENTUM)
        learned = context + rate * (output.features - context)
        return boxes, scores, output.score_logits, output.offset, output.size, output.features, learned


def example_inputs(config: ModelConfig, batch: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Arguments of the template and the frame graph."""
    side = config.search_size // config.patch_size
    boxes = torch.tensor([0.25, 0.25, 0.75, 0.75]).repeat(batch, 1)
    memory = empty_memory(config, batch)
    template = (torch.randn(batch, 3, config.template_size, config.template_size), boxes, *memory[:3])
    frame = (
        torch.randn(batch, 3, config.search_size, config.search_size),
        *memory[:3],
        torch.zeros(batch, side**2, config.dim),
        torch.zeros(batch, side**2, 1),
        torch.ones(batch, side, side),
        *memory[3:],
    )
    return template, frame
