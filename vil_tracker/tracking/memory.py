"""The template memory of a session: the first frame's template for ever, a few later ones behind it.

Scanning continues from a saved state, so that a template is added at the cost of its own tokens, and frames cost the
same however many there are. The state after the first template is kept as a snapshot: replacing a later template
restarts from it, and a lost target is looked for with it alone.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vil_tracker.models.inference import SearchModel
from vil_tracker.models.vil import Memory


@dataclass
class TemplateMemory:
    """Templates of one target.

    Attributes:
        first: memory after the first frame's template.
        current: memory after all templates.
        looks: pooled, normalised tokens (D,) of each template, the first frame's first.
        later: crop (3, H, W) and box (4,) of the templates after the first, oldest first.
    """

    first: Memory
    current: Memory
    looks: list[np.ndarray] = field(default_factory=list)
    later: deque[tuple[Tensor, Tensor]] = field(default_factory=deque)

    def __len__(self) -> int:
        """Number of templates."""
        return 1 + len(self.later)

    def likeness(self, look: np.ndarray) -> float:
        """Largest cosine between a look and those of the templates; -1 if none was recorded."""
        return max((float(known @ look) for known in self.looks), default=-1.0)

    def add(self, model: SearchModel, crop: Tensor, box: Tensor, look: np.ndarray, limit: int) -> None:
        """Append a template; with ``limit`` templates already there, the oldest but the first makes room.

        Args:
            model: the network.
            crop: (3, H, W) normalised.
            box: (4,) the target in it, x1 y1 x2 y2 in [0, 1] of the crop.
            look: (D,) pooled, normalised tokens.
            limit: largest number of templates, at least 2.
        """
        self.later.append((crop, box))
        self.looks.append(look)
        if len(self) <= limit:
            self.current = model.encode_templates(crop[None, None], box[None, None], self.current)
            return
        self.later.popleft()
        del self.looks[1]
        crops, boxes = (torch.stack(parts)[None] for parts in zip(*self.later, strict=True))
        self.current = model.encode_templates(crops, boxes, self.first)
