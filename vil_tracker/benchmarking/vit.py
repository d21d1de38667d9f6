"""The reference that our network stands beside: a one-stream ViT tracker (Ye et al., OSTrack, 2022).

Template and search tokens go through self-attention together, so every template makes every frame longer. Blocks are
timm's, with its fused attention; stem, crops and head are those of our network, in their fast form too. Template
tokens are embedded once: only what must be done for a frame is done.
"""

from __future__ import annotations

import torch
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from vil_tracker.models.inference import InferenceNetwork

HEAD_WIDTH = 64
BLOCKS = 12
MLP_RATIO = 4


class OneStreamViT:
    """Blocks of the same width as ``network``, on its tokens; it lends stem and head."""

    def __init__(self, network: InferenceNetwork) -> None:
        config = network.config
        heads = max(config.dim // HEAD_WIDTH, 1)
        self.network = network
        side = config.search_size // config.patch_size
        self.grid = (side, side)
        self.search_tokens = side**2
        self.template_tokens = (config.template_size // config.patch_size) ** 2
        self.blocks = nn.Sequential(*(Block(config.dim, heads, MLP_RATIO, qkv_bias=True) for _ in range(BLOCKS)))
        self.blocks.to(network.device, network.dtype).eval()
        self.norm = nn.LayerNorm(config.dim).to(network.device, network.dtype)

    def tokens_of_templates(self, count: int) -> Tensor:
        """Embedded templates, (1, count · tokens of one, D); their values do not matter for the time."""
        shape = (1, count * self.template_tokens, self.network.config.dim)
        return torch.randn(shape, device=self.network.device).to(self.network.dtype)

    @torch.no_grad()
    def frame(self, search: Tensor, templates: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes and scores of a search crop (1, 3, H, W) with the tokens of its templates (1, T, D)."""
        x = self.network.embed(search).to(self.network.dtype)
        x = self.norm(self.blocks(torch.cat([templates, x], dim=1))[:, templates.shape[1] :])
        return self.network.decode(self.network.predict(x, self.grid))

    def operations(self, templates: int) -> float:
        tokens, dim = self.search_tokens + templates * self.template_tokens, self.network.config.dim
        per_block = 2 * tokens * dim * (4 * dim + 2 * MLP_RATIO * dim) + 4 * tokens**2 * dim
        return float(len(self.blocks) * per_block)
