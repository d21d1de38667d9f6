"""The tracking session: `init` on one frame and box, then `update` frame by frame.

A frame's way: crop around the last box → network, reading the template's cached memory and the temporal context →
best cell of score × window → box in the frame → state for the next frame.
"""

from __future__ import annotations

import numpy as np
import torch

from vil_tracker.boxes import BoxLike, check_box, clip_box
from vil_tracker.config import TrackConfig
from vil_tracker.data.crops import crop, geometry_for_box, mean_colour, to_input
from vil_tracker.errors import UserError
from vil_tracker.models.film_temporal import register_context, updated_context
from vil_tracker.models.network import ViLTrackerNet
from vil_tracker.tracking.state import Result, TrackState


class Tracker:
    """Follows one target through one video; a new :meth:`init` starts from nothing.

    The network holds weights and nothing else, so that any number of trackers may share one.

    Args:
        model: a network from :func:`vil_tracker.load_model`.
        config: thresholds and the window; one set for every video.

    Example:
        >>> tracker = Tracker(load_model("nano"))
        >>> tracker.init(first_frame, (120, 80, 64, 48))
        >>> result = tracker.update(next_frame)
        >>> result.box, result.score, result.state
    """

    def __init__(self, model: ViLTrackerNet, config: TrackConfig | None = None) -> None:
        self.model = model.eval()
        self.config = config or TrackConfig()
        self.device = next(model.parameters()).device
        self.dtype = next(model.parameters()).dtype
        self.window = hann_window(model.config.search_size // model.config.patch_size, self.config.window).to(
            self.device
        )
        self.state: TrackState | None = None

    @torch.inference_mode()
    def init(self, frame: np.ndarray, box: BoxLike) -> Result:
        """Start on a target.

        Args:
            frame: (H, W, 3) uint8 RGB.
            box: x, y, w, h in pixels of the frame.

        Returns:
            The box itself, with score 1.

        Raises:
            UserError: the frame is no RGB image, or the box has no area or lies outside the frame.
        """
        check_frame(frame)
        box_xywh = check_box(box, frame.shape[1], frame.shape[0])
        settings = self.model.config
        geometry = geometry_for_box(box_xywh, settings.template_factor, settings.template_size)
        template = to_input(crop(frame, geometry), self.device, self.dtype)
        template_box = torch.as_tensor(geometry.to_crop(box_xywh), device=self.device, dtype=self.dtype)
        memory = self.model.encode_templates(template[None, None], template_box[None, None])
        self.state = TrackState(box=box_xywh, memory=memory)
        return Result(box_xywh.copy(), 1.0, "tracking")

    @torch.inference_mode()
    def update(self, frame: np.ndarray) -> Result:
        """Find the target in the next frame.

        Args:
            frame: (H, W, 3) uint8 RGB; its size may differ from the frame's before.

        Returns:
            Box inside the frame, score and state.

        Raises:
            UserError: the frame is no RGB image, or :meth:`init` was not called.
        """
        if self.state is None:
            raise UserError("the tracker has no target yet: call init(frame, box) first")
        check_frame(frame)
        state, settings = self.state, self.model.config
        height, width = frame.shape[:2]
        geometry = geometry_for_box(state.box, settings.search_factor, settings.search_size)
        search = to_input(crop(frame, geometry, mean_colour(frame)), self.device, self.dtype)[None]
        crops_B3 = torch.tensor([[geometry.cx, geometry.cy, geometry.side]], device=self.device, dtype=torch.float32)
        context = None
        if state.context is not None:
            context = register_context(state.context, crops_B3, (len(self.window), len(self.window)))
        output = self.model.forward_search(search, state.memory, context)
        boxes_B4, scores_B = self.model.decode(output, self.window)
        box = clip_box(geometry.to_image(boxes_B4[0].double().cpu().numpy()), width, height)
        score = float(scores_B[0])

        if self.config.temporal and self.model.temporal is not None and score >= self.config.context_confidence:
            grid = (output.score_logits.shape[-2], output.score_logits.shape[-1])
            state.context = updated_context(state.context, output.features, grid, crops_B3)
        state.box, state.score, state.frame = box, score, state.frame + 1
        return Result(box.copy(), score, "tracking")


def hann_window(grid: int, strength: float) -> torch.Tensor:
    """(grid, grid): (1 - strength) + strength · outer Hann, whose maximum lies at the centre of the crop."""
    hann = torch.hann_window(grid + 2, periodic=False)[1:-1]
    return (1 - strength) + strength * torch.outer(hann, hann)


def check_frame(frame: np.ndarray) -> None:
    """Raise UserError unless ``frame`` is (H, W, 3) uint8 with at least one pixel."""
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        found = f"{frame.dtype} {frame.shape}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise UserError(f"a frame must be a numpy array (H, W, 3) of uint8 RGB, found {found}")
    if frame.size == 0:
        raise UserError(f"the frame has no pixels (shape {frame.shape}): check the source")
