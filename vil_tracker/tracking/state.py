"""What one video needs: everything that changes from frame to frame lives here, nothing of it in the network."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from vil_tracker.config import TrackConfig
from vil_tracker.models.film_temporal import TemporalContext
from vil_tracker.models.inference import SearchModel
from vil_tracker.models.network import TargetMemory
from vil_tracker.tracking.confidence import ConfidenceState
from vil_tracker.tracking.distractor import DistractorTrack
from vil_tracker.tracking.motion import BoxFilter, MotionModel
from vil_tracker.tracking.redetect import PlaceSearch, RedetectionCandidate


@dataclass
class Phase:
    """The state shown to the user, with hysteresis.

    A score below ``uncertain_below`` makes a track uncertain, one above ``tracking_above`` ends that. ``lost_after``
    frames in a row below ``lost_below``, or ``uncertain_frames`` uncertain ones, make it lost; only a verified match
    with the first template ends that, as "recovered" for ``recovered_frames`` frames. Such a match elsewhere also
    replaces a track in doubt.
    """

    name: str = "tracking"  # one of vil_tracker.results.STATES
    frames: int = 0  # spent in it
    low: int = 0  # how many of the last frames in a row scored below ``lost_below``

    def advance(self, score: float, config: TrackConfig, *, doubtful: bool = False, verified: bool = False) -> str:
        """Take in one frame with its calibrated score in [0, 1] and return the new state.

        ``doubtful``: the frame cannot be trusted whatever its score; asked for except while lost. ``verified``: a
        search found the target, and the frame's box matches the first template.
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
    """

    first: TargetMemory  # after the first frame's template
    current: TargetMemory  # after all templates
    #: Crop (1, 1, 3, H, W) and box (1, 1, 4) of the templates after the first, oldest first.
    later: deque[tuple[Tensor, Tensor]] = field(default_factory=deque)

    def __len__(self) -> int:
        return 1 + len(self.later)

    def add(self, model: SearchModel, crop: Tensor, box: Tensor, limit: int) -> None:
        """Append a template; with ``limit`` templates (at least 2) already there, the oldest but the first makes room.

        The crop is (1, 1, 3, H, W) normalised, the box in it (1, 1, 4) x1 y1 x2 y2 in [0, 1] of the crop.
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
    """Everything that one video needs, made by ``Tracker.init``."""

    box: np.ndarray  # (4,) xywh in pixels, the last box as it was found
    memory: TemplateMemory
    size: float  # √(w·h) in pixels that search crops are made for: that of the boxes, which it follows with a lag
    sure_size: float  # √(w·h) in pixels of the last box that the tracker was sure of
    motion: MotionModel  # forecast of the centre
    filter: BoxFilter | None = None  # steadies the reported boxes; None while the target is lost
    context: TemporalContext | None = None  # of the frames before; None until one was confident enough to teach it
    confidence: ConfidenceState | None = None  # None without a calibrated score, which alone needs it
    phase: Phase = field(default_factory=Phase)
    distractor: DistractorTrack | None = None  # the last one that was seen beside the target
    search: PlaceSearch | None = None  # which places were looked at while the target is lost or in doubt; else None
    candidate: RedetectionCandidate | None = None  # the likeliest place found by that search so far
    score: float = 1.0  # of the last frame
    frames_in_doubt: int = 0  # how many of the last frames in a row scored below ``redetect_below``
    frames_unlike: int = 0  # how many of the last followed ones in a row were less alike by ``redetect_fall``
    frame: int = 0  # since ``init``
