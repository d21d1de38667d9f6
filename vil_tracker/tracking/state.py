"""What one video needs: everything that changes from frame to frame lives here, nothing of it in the network."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from vil_tracker.config import TrackConfig
from vil_tracker.models.inference import SearchModel
from vil_tracker.models.vil import Memory

if TYPE_CHECKING:
    from vil_tracker.models.film_temporal import TemporalContext
    from vil_tracker.tracking.confidence import ConfidenceState
    from vil_tracker.tracking.motion import BoxFilter, MotionModel
    from vil_tracker.tracking.redetect import PlaceSearch, RedetectionCandidate


@dataclass
class Phase:
    """The state shown to the user, with hysteresis.

    A score below ``uncertain_below`` makes a track uncertain, one above ``tracking_above`` ends that. ``lost_after``
    frames in a row below ``lost_below``, or ``uncertain_frames`` uncertain ones, make it lost; only a verified match
    with the first template ends that, as "recovered" for ``recovered_frames`` frames. Such a match elsewhere also
    replaces a track in doubt.

    Attributes:
        name: one of :data:`vil_tracker.results.STATES`.
        frames: frames spent in it.
        low: how many of the last frames in a row scored below ``lost_below``.
    """

    name: str = "tracking"
    frames: int = 0
    low: int = 0

    def advance(self, score: float, config: TrackConfig, *, doubtful: bool = False, verified: bool = False) -> str:
        """Take in one frame and return the new state.

        Args:
            score: calibrated, in [0, 1].
            config: the thresholds.
            doubtful: the frame cannot be trusted whatever its score; asked for except while lost.
            verified: whether a search found the target and the frame's box matches the first template.
        """
        self.low = self.low + 1 if score < config.lost_below else 0
        self.frames += 1
        if verified:
            self._enter("recovered")
        if self.name == "lost" or verified:
            return self.name
        if self.name == "uncertain":
            if score >= config.tracking_above and not doubtful:
                self._enter("tracking")
        elif doubtful or score < config.uncertain_below:
            self._enter("uncertain")
        elif self.name == "recovered" and self.frames >= config.recovered_frames:
            self._enter("tracking")
        if self.name == "uncertain" and (self.low >= config.lost_after or self.frames >= config.uncertain_frames):
            self._enter("lost")
        return self.name

    def _enter(self, name: str) -> None:
        self.name, self.frames = name, 0


@dataclass
class TemplateMemory:
    """The memory of one target's templates: the first frame's for ever, a few corrections by hand behind it.

    Scanning continues from a saved state, so a template is added at the cost of its own tokens, and a frame costs the
    same however many there are. The state after the first template is kept: replacing a later one restarts from it, and
    a lost target is searched for with it alone.

    Attributes:
        first: memory after the first frame's template.
        current: memory after all templates.
        later: crop (1, 1, 3, H, W) and box (1, 1, 4) of the templates after the first, oldest first.
    """

    first: Memory
    current: Memory
    later: deque[tuple[Tensor, Tensor]] = field(default_factory=deque)

    def __len__(self) -> int:
        """Number of templates."""
        return 1 + len(self.later)

    def add(self, model: SearchModel, crop: Tensor, box: Tensor, limit: int) -> None:
        """Append a template; with ``limit`` templates already there, the oldest but the first makes room.

        Args:
            model: the network.
            crop: (1, 1, 3, H, W) normalised.
            box: (1, 1, 4) the target in it, x1 y1 x2 y2 in [0, 1] of the crop.
            limit: largest number of templates, at least 2.
        """
        self.later.append((crop, box))
        if len(self) <= limit:
            self.current = model.encode_templates(crop, box, self.current)
            return
        self.later.popleft()
        crops, boxes = (torch.cat(parts, 1) for parts in zip(*self.later, strict=True))
        self.current = model.encode_templates(crops, boxes, self.first)


@dataclass
class TrackState:
    """Everything that one video needs, made by ``Tracker.init``.

    Attributes:
        box: (4,) xywh in pixels, the last box as it was found.
        memory: the templates' memory.
        size: √(w·h) in pixels that search crops are made for: that of the boxes, which it follows with a lag.
        sure_size: √(w·h) in pixels of the last box that the tracker was sure of.
        context: temporal context of the frames before; None until a frame was confident enough to teach it.
        confidence: what the confidence knows; None without a calibrated score, which alone needs it.
        motion: forecast of the centre.
        filter: steadies the reported boxes; None while the target is lost.
        phase: the state machine.
        search: which places of the frame were looked at while the target is lost or in doubt; else None.
        candidate: the likeliest place found by that search so far.
        score: of the last frame.
        frames_in_doubt: how many of the last frames in a row scored below ``redetect_below``.
        frame: frames since ``init``.
    """

    box: np.ndarray
    memory: TemplateMemory
    size: float
    sure_size: float
    motion: MotionModel
    filter: BoxFilter | None = None
    context: TemporalContext | None = None
    confidence: ConfidenceState | None = None
    phase: Phase = field(default_factory=Phase)
    search: PlaceSearch | None = None
    candidate: RedetectionCandidate | None = None
    score: float = 1.0
    frames_in_doubt: int = 0
    frame: int = 0
