"""The tracker's network: template-prefix ViL backbone, temporal modulation, centre head.

The template is scanned before the search region in every sublayer, so its tokens never depend on the search and the
memory that they leave, one mLSTM state per sublayer, can be kept for a whole video: a frame costs its search tokens
alone. The network holds weights and nothing else; all state of a video is passed in and out.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn

from vil_tracker.config import ModelConfig
from vil_tracker.errors import UserError
from vil_tracker.models.correlation import (
    SEARCH_CELLS,
    TEMPLATE_CELLS,
    CorrelationBranch,
    mean_of_opinions,
    resized_for_correlation,
)
from vil_tracker.models.film_temporal import TemporalContext, TemporalModulationManager
from vil_tracker.models.head import CentreHead, decode_maps
from vil_tracker.models.stem import MobileStem
from vil_tracker.models.vil import (
    Grid,
    Memory,
    PositionEmbedding,
    ViL,
    build_vil,
    initial_position_embedding,
    resize_grid,
)

SEARCH, TEMPLATE_BACKGROUND, TEMPLATE_TARGET = range(3)
TYPE_EMBED_STD = 0.5


class TargetMemory(NamedTuple):
    """What a target's templates leave for the frames.

    Attributes:
        states: one mLSTM state per sublayer, after all templates.
        features: (B, 96, 8, 8), the stem's features of the newest template, for the correlation; None without one.
    """

    states: Memory
    features: Tensor | None = None


class NetworkOutput(NamedTuple):
    """Maps over the search grid of h × w cells.

    Attributes:
        score_logits: (B, 1, h, w), logits of the target's centre lying in each cell.
        offset: (B, 2, h, w), x and y of the centre from the cell's top left corner, in cells.
        size: (B, 2, h, w), width and height in [0, 1] of the search crop.
        features: (B, h * w, D), final search tokens; they feed the temporal context.
    """

    score_logits: Tensor
    offset: Tensor
    size: Tensor
    features: Tensor


def cell_coverage(boxes: Tensor, grid: Grid) -> Tensor:
    """Share of each cell's area that a box covers: boxes (..., 4) x1 y1 x2 y2 in [0, 1] -> (..., rows * columns)."""

    def covered(low: Tensor, high: Tensor, cells: int) -> Tensor:
        edges = torch.arange(cells, device=boxes.device, dtype=boxes.dtype)
        low, high = low[..., None] * cells, high[..., None] * cells
        return (torch.minimum(high, edges + 1) - torch.maximum(low, edges)).clamp(min=0)

    rows = covered(boxes[..., 1], boxes[..., 3], grid[0])
    columns = covered(boxes[..., 0], boxes[..., 2], grid[1])
    return (rows[..., :, None] * columns[..., None, :]).flatten(-2)


class ViLTrackerNet(nn.Module):
    """Backbone, token embeddings, temporal modulation and head.

    Args:
        config: what the parts were built from; kept for those who prepare the crops and save the weights.
        backbone: its position embedding is the search region's.
        template_pos_embed: position embedding of the template region.
        temporal: the temporal modulation, or None.
        head: maps from search features.
        correlation: another opinion on the maps, or None.

    Attributes:
        calibration: how these weights' score maps become a probability, JSON as the tracking session reads it; None
            where nobody has fitted it. It comes from the weights file and holds for no other weights.
        card: text of the model card beside the weights file; None where there is none.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        backbone: ViL,
        template_pos_embed: PositionEmbedding,
        temporal: TemporalModulationManager | None,
        head: CentreHead,
        correlation: CorrelationBranch | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone = backbone
        self.template_pos_embed = template_pos_embed
        # A standard deviation near that of the stem's output: at the position embedding's 0.02, training does not
        # separate the target from its background for thousands of pairs.
        self.type_embed = nn.Parameter(nn.init.trunc_normal_(torch.empty(3, config.dim), std=TYPE_EMBED_STD))
        self.temporal = temporal
        self.head = head
        self.correlation = correlation
        self.calibration: str | None = None
        self.card: str | None = None

    def set_grad_checkpointing(self, enabled: bool = True) -> None:
        """Recompute each sublayer in the backward pass instead of keeping its activations."""
        self.backbone.grad_checkpointing = enabled

    def encode_templates(
        self, templates: Tensor, template_boxes: Tensor, memory: TargetMemory | None = None
    ) -> TargetMemory:
        """Scan templates into a memory; done once per video, or again when a template is added.

        Args:
            templates: normalised crops (B, N, 3, Ht, Wt), the first frame's first.
            template_boxes: the target in each crop, (B, N, 4) x1 y1 x2 y2 in [0, 1] of the crop.
            memory: a memory to append to.

        Returns:
            One state per sublayer and, with correlation, the newest template's features.

        Raises:
            UserError: the network was built with ``scan: flip``, whose templates depend on the search region.
        """
        if self.config.scan != "prefix":
            raise UserError(
                f"a network with scan: {self.config.scan} has no template memory: train one with scan: prefix to track"
            )
        tokens, grid = self._embed_templates(templates, template_boxes)
        known = None if memory is None else memory.states
        _, states = self.backbone.scan(tokens, (grid,) * templates.shape[1], known, return_memory=True)
        assert states is not None
        return TargetMemory(states, self._template_features(templates))

    def forward_search(
        self, search: Tensor, memory: TargetMemory, context: TemporalContext | None = None
    ) -> NetworkOutput:
        """Find the target of a memory in a search crop.

        Args:
            search: normalised crops (B, 3, Hs, Ws); sides are multiples of the patch size.
            memory: from :meth:`encode_templates`, same batch size.
            context: temporal context registered to these crops; None modulates nothing.
        """
        tokens, grid = self._embed_search(search)
        output = self._locate(tokens, (), grid, memory.states, context)
        return self.with_opinion(output, search, memory.features)

    def forward(
        self, templates: Tensor, template_boxes: Tensor, search: Tensor, context: TemporalContext | None = None
    ) -> NetworkOutput:
        """Templates and search in one pass, as in training: the same function as :meth:`encode_templates` followed
        by :meth:`forward_search`, with the same arguments.
        """
        template_tokens, template_grid = self._embed_templates(templates, template_boxes)
        search_tokens, grid = self._embed_search(search)
        tokens = torch.cat([template_tokens, search_tokens], dim=1)
        output = self._locate(tokens, (template_grid,) * templates.shape[1], grid, None, context)
        return self.with_opinion(output, search, self._template_features(templates))

    def decode(self, output: NetworkOutput, window: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Best boxes (B, 4) in crop units and their scores (B,); see :func:`vil_tracker.models.head.decode_maps`."""
        return decode_maps(output.score_logits, output.offset, output.size, window)

    def _embed_templates(self, templates: Tensor, boxes: Tensor) -> tuple[Tensor, Grid]:
        if templates.dim() != 5 or boxes.shape != (*templates.shape[:2], 4):
            raise ValueError(
                "templates must be (B, N, 3, H, W) with boxes (B, N, 4); got "
                f"{tuple(templates.shape)} with {tuple(boxes.shape)}"
            )
        tokens, grid = self.backbone.embed(templates.flatten(0, 1), self.template_pos_embed)
        target = cell_coverage(boxes.flatten(0, 1).to(tokens.dtype), grid)[..., None]
        background_type, target_type = self.type_embed[TEMPLATE_BACKGROUND], self.type_embed[TEMPLATE_TARGET]
        tokens = tokens + background_type + target * (target_type - background_type)
        return rearrange(tokens, "(b n) s d -> b (n s) d", n=templates.shape[1]), grid

    def _template_features(self, templates: Tensor) -> Tensor | None:
        """The stem's features of the last of templates (B, N, 3, Ht, Wt), for the correlation."""
        if self.correlation is None:
            return None
        return self._features_for_correlation(templates[:, -1], self.config.template_size, TEMPLATE_CELLS)

    def _features_for_correlation(self, crops: Tensor, size: int, cells: int) -> Tensor:
        """The stem's features of crops, at the scale at which a crop of ``size`` pixels has so many cells a side."""
        stem = self.backbone.patch_embed
        assert isinstance(stem, MobileStem)
        return stem.features(resized_for_correlation(crops, size, cells))

    def with_opinion(self, output: NetworkOutput, search: Tensor, template: Tensor | None) -> NetworkOutput:
        """The maps averaged with the correlation's of search crops and a template's features, where there is one."""
        if self.correlation is None:
            return output
        assert template is not None
        features = self._features_for_correlation(search, self.config.search_size, SEARCH_CELLS)
        score, offset, size, tokens = output
        opinion = self.correlation(template, features, (score.shape[2], score.shape[3]))
        return NetworkOutput(*mean_of_opinions(score, offset, size, opinion, self.config.correlation), tokens)

    def _embed_search(self, search: Tensor) -> tuple[Tensor, Grid]:
        tokens, grid = self.backbone.embed(search)
        return tokens + self.type_embed[SEARCH], grid

    def _locate(
        self,
        tokens: Tensor,
        template_regions: tuple[Grid, ...],
        grid: Grid,
        memory: Memory | None,
        context: TemporalContext | None,
    ) -> NetworkOutput:
        """Scan ``tokens`` (templates, if any, then search) and read the maps off the search tokens."""
        temporal = self.temporal
        split = tokens.shape[1] - grid[0] * grid[1]
        after = None
        if temporal is not None and context is not None:
            condition = temporal.condition(context, grid)

            def after(index: int, x: Tensor) -> Tensor:
                if not temporal.should_modulate(index):
                    return x
                search = temporal.apply_film(x[:, split:], index, condition)
                return torch.cat([x[:, :split], search], dim=1) if split else search

        tokens, _ = self.backbone.scan(tokens, (*template_regions, grid), memory, after=after)
        features = self.backbone.norm(tokens[:, split:])
        score, offset, size = self.head(rearrange(features, "b (h w) d -> b d h w", h=grid[0]))
        return NetworkOutput(score, offset, size, features)


def build_network(config: ModelConfig) -> ViLTrackerNet:
    """A freshly initialised network."""
    search_side, template_side = config.search_size // config.patch_size, config.template_size // config.patch_size
    position = initial_position_embedding(config.dim)
    temporal = None
    if config.temporal:
        temporal = TemporalModulationManager(config.dim, config.depth, config.modulation_interval)
    return ViLTrackerNet(
        config,
        backbone=build_vil(
            dim=config.dim,
            depth=config.depth,
            position_1HWD=resize_grid(position, (search_side, search_side)),
            patch_size=config.patch_size,
            stem=config.stem,
            drop_path=config.drop_path,
            scan=config.scan,
        ),
        template_pos_embed=PositionEmbedding(resize_grid(position, (template_side, template_side))),
        temporal=temporal,
        head=CentreHead(config.dim, config.head_channels),
        correlation=CorrelationBranch() if config.correlation else None,
    )
