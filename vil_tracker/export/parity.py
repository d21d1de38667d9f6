"""Whether two models of one tracker find the same boxes: a network and its export, or two precisions.

Two sessions that each follow their own boxes may part for good over nothing: where two places look alike, a difference
in the seventh digit decides between them, and from there on the sessions look at different crops. So the models are
compared on the same crops, memories' templates and contexts, those of the first one's session; how far sessions of
their own part is reported beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vil_tracker.boxes import BoxLike, convert, iou
from vil_tracker.config import TrackConfig
from vil_tracker.errors import UserError
from vil_tracker.models.film_temporal import TemporalContext
from vil_tracker.models.inference import SearchModel, prepare_for_inference
from vil_tracker.models.network import NetworkOutput, TargetMemory, ViLTrackerNet
from vil_tracker.tracking.tracker import Tracker

REQUIRED = 0.999


@dataclass(frozen=True)
class Parity:
    """Two models over a sequence."""

    #: (2, N, 4) xywh in units of the crop, what both found in every crop that the first one's session looked at; a lost
    #: target is looked for in several crops per frame.
    crops: np.ndarray
    tracks: np.ndarray  # (2, F, 4) xywh in pixels, what two sessions reported of every frame but the first

    @property
    def frames(self) -> int:
        return self.tracks.shape[1]

    @property
    def same_crops(self) -> np.ndarray:
        """Intersection over union of both models' boxes, (N,), one per crop."""
        return iou(*self.crops)

    @property
    def own_tracks(self) -> np.ndarray:
        """Intersection over union of both sessions' boxes, (F,), one per frame."""
        return iou(*self.tracks)

    @property
    def holds(self) -> bool:
        """Whether the models agree to :data:`REQUIRED` in every crop that both were shown."""
        return bool(self.same_crops.min() >= REQUIRED)


class Pair:
    """Two models behind the interface of one, :class:`vil_tracker.models.inference.SearchModel`.

    A session gets the answers of the first. The second is shown the same crops, templates and contexts with a memory
    of its own, and both boxes are noted, (2, 4) for every crop. A memory holds the first model's states first.
    """

    def __init__(self, first: SearchModel, second: SearchModel) -> None:
        self.first, self.second = first, second
        self.config, self.calibration, self.uses_context = first.config, first.calibration, first.uses_context
        self.device, self.io_dtype = first.device, first.io_dtype
        self.boxes: list[np.ndarray] = []  # x1 y1 x2 y2 in units of the crop
        self._answers: tuple[NetworkOutput, NetworkOutput] | None = None  # of the last crops, until they are decoded

    def encode_templates(
        self, templates: Tensor, template_boxes: Tensor, memory: TargetMemory | None = None
    ) -> TargetMemory:
        own = (None, None) if memory is None else self._parts(memory)
        first = self.first.encode_templates(templates, template_boxes, own[0])
        second = self.second.encode_templates(templates, template_boxes, own[1])
        features = [part.features for part in (first, second) if part.features is not None]
        return TargetMemory(first.states + second.states, torch.cat(features, dim=1) if features else None)

    def forward_search(
        self, search: Tensor, memory: TargetMemory, context: TemporalContext | None = None
    ) -> NetworkOutput:
        first, second = self._parts(memory)
        answer = self.first.forward_search(search, first, context)
        self._answers = answer, self.second.forward_search(search, second, context)
        return answer

    def decode(self, output: NetworkOutput, window: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The first model's boxes and scores; both models' are noted. ValueError if the maps are not the last crops."""
        if self._answers is None or output is not self._answers[0]:
            raise ValueError("a pair decodes the maps of the crops that it saw last")
        boxes, scores = self.first.decode(output, window)
        others, _ = self.second.decode(self._answers[1], window)
        self._answers = None
        self.boxes += list(torch.stack([boxes, others], 1).double().cpu().numpy())
        return boxes, scores

    def _parts(self, memory: TargetMemory) -> tuple[TargetMemory, TargetMemory]:
        depth = self.config.depth
        first, second = (None, None) if memory.features is None else memory.features.chunk(2, dim=1)
        return TargetMemory(memory.states[:depth], first), TargetMemory(memory.states[depth:], second)


def compare(
    first: ViLTrackerNet | SearchModel,
    second: SearchModel,
    frames: Iterable[np.ndarray],
    box: BoxLike,
    config: TrackConfig | None = None,
) -> Parity:
    """Track with the first model, show the second, of the same configuration, the same, and track with the second.

    The frames are RGB images, read one after the other; the box is x, y, w, h on the first. UserError for less than
    two.
    """
    pair = Pair(prepare_for_inference(first) if isinstance(first, ViLTrackerNet) else first, second)
    sessions = [Tracker(pair, config), Tracker(second, config)]
    tracks: list[list[np.ndarray]] = []
    for index, frame in enumerate(frames):
        if index == 0:
            for session in sessions:
                session.init(frame, box)
        else:
            tracks.append([session.update(frame).box for session in sessions])
    if not tracks:
        raise UserError("models are compared over two frames or more: give a longer video")
    return Parity(convert(np.stack(pair.boxes, 1), "xyxy", "xywh"), np.array(tracks).transpose(1, 0, 2))
