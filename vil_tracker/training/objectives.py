"""The losses of one batch, as modules that hold the network: what DistributedDataParallel wraps.

Phase 1 sees pairs. Phase 2 runs each clip as a session does: the template is scanned once into a memory, then frame by
frame the crop is cut around the last box (or, for a share of the frames, around a jittered truth), the temporal context
is registered to it, and the answer moves the box and teaches the context. No gradient crosses from one frame to the
next. Each frame makes one copy to the device, its crops with their numbers, and one back, the boxes found.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vil_tracker.boxes import box_centre, box_scale, centred_box, clip_box
from vil_tracker.config import Config
from vil_tracker.data.crops import CropGeometry, crop, ema_scale, geometry_for_box, to_input
from vil_tracker.data.sampling import ClipBatch, PairBatch
from vil_tracker.errors import UserError
from vil_tracker.models.film_temporal import TemporalContext, register_context, unregistered_context, updated_context
from vil_tracker.models.head import hann_window
from vil_tracker.models.network import NetworkOutput, ViLTrackerNet
from vil_tracker.tracking.search import to_host
from vil_tracker.training.deep_supervision import ForegroundProbes
from vil_tracker.training.losses import Terms, tracking_loss
from vil_tracker.training.teacher import Teacher, TeacherLosses, TeacherProjections, TeacherTargets


class Located(NamedTuple):
    """The network's maps for B search crops, the true boxes (B, 4) xyxy in units of the crops, and whether each crop
    holds the visible target, (B,) bool.
    """

    output: NetworkOutput
    boxes: Tensor
    present: Tensor


class PairObjective(nn.Module):
    """Loss of a batch of pairs, with deep supervision through ``probes``, weighted by ``train.loss_foreground``, and
    compared with the teacher of ``train.teacher`` through ``projections``, where there are any.
    """

    def __init__(
        self,
        network: ViLTrackerNet,
        config: Config,
        probes: ForegroundProbes | None = None,
        projections: TeacherProjections | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.settings = config.train
        self.probes = probes
        self.seen = probes.register_hooks(network) if probes is not None else []
        self.projections = projections
        self.compared = projections.register_hooks(network) if projections is not None else []
        self.teacher = Teacher(Path(config.train.teacher)) if projections is not None else None
        if config.train.compile:
            compile_parts(network)

    def forward(self, batch: PairBatch) -> tuple[Tensor, Terms]:
        """The total loss, a scalar, and its detached terms."""
        self.seen.clear()
        self.compared.clear()
        located = next(self.locate(batch))
        loss, terms = tracking_loss(*located, self.settings)
        grid = located.output.score_logits.shape[-1]
        if self.probes is not None:
            inside = self.probes(self.seen, located.boxes, located.present, grid)
            loss, terms = loss + self.settings.loss_foreground * inside, {**terms, "inside": inside.detach()}
        if self.projections is not None:
            taught = self._compare_with_teacher(batch, located, grid)
            loss = loss + self.settings.loss_teacher_features * taught.features
            loss = loss + self.settings.loss_teacher_score * taught.score
            terms = {**terms, **{f"teacher_{name}": value.detach() for name, value in taught._asdict().items()}}
        self.seen.clear()  # they hold this step's graph
        self.compared.clear()
        return loss, terms

    def _compare_with_teacher(self, batch: PairBatch, located: Located, grid: int) -> TeacherLosses:
        assert self.teacher is not None and self.projections is not None
        targets = self.teacher.targets(batch.templates[:, 0].numpy(), batch.search.numpy())
        targets = TeacherTargets(*(part.to(located.boxes.device) for part in targets))
        config = self.network.config
        template_grid = config.template_size // config.patch_size
        return self.projections(self.compared, targets, located.boxes, located.present, template_grid, grid)

    def locate(self, batch: PairBatch) -> Iterator[Located]:
        """Yield what the network answers to the one search crop."""
        device = device_of(self.network)
        output = self.network(
            to_input(batch.templates, device),
            batch.template_boxes.to(device, non_blocking=True),
            to_input(batch.search, device),
        )
        boxes, present = batch.search_boxes, batch.present
        yield Located(output, boxes.to(device, non_blocking=True), present.to(device, non_blocking=True))


class ClipObjective(nn.Module):
    """Loss of a batch of clips, averaged over their frames. The network's temporal part, where it has one, sees the
    context that a session would, by the configuration's window and thresholds.

    Raises:
        UserError: the network's templates depend on the search region, so that it cannot be used in a session.
    """

    def __init__(self, network: ViLTrackerNet, config: Config) -> None:
        super().__init__()
        if network.config.scan != "prefix":
            raise UserError(f"data.mode clips needs model.scan prefix, not {network.config.scan}: use pairs")
        self.network = network
        self.config = config
        side = network.config.search_size // network.config.patch_size
        self.grid = (side, side)
        self.window = hann_window(side, config.track.window)
        if config.train.compile:
            compile_parts(network)

    def forward(self, batch: ClipBatch) -> tuple[Tensor, Terms]:
        """The total loss, a scalar, and its detached terms."""
        losses, terms = [], []
        for located in self.locate(batch):
            loss, frame_terms = tracking_loss(*located, self.config.train)
            losses.append(loss)
            terms.append(frame_terms)
        mean = {name: torch.stack([frame[name] for frame in terms]).mean() for name in terms[0]}
        return torch.stack(losses).mean(), mean

    def locate(self, batch: ClipBatch) -> Iterator[Located]:
        """Yield, frame by frame, what the network answers to the session's search crops."""
        network, settings = self.network, self.network.config
        device = device_of(network)
        memory = network.encode_templates(
            to_input(batch.templates, device), batch.template_boxes.to(device, non_blocking=True)
        )
        window = self.window.to(device)
        teaches = network.temporal is not None and self.config.track.temporal
        context: TemporalContext | None = None
        labels = (batch.boxes, batch.present, batch.anchors, batch.use_truth)
        boxes_BK4, present_BK, anchors_BK4, use_truth_BK = (label.numpy() for label in labels)
        clips = [clip.numpy() for clip in batch.frames]
        last_B4 = anchors_BK4[:, 0]
        scale_B = scales(last_B4)  # that the session's crops go by
        size = settings.search_size
        upload = FrameUpload(len(batch.frames), size, device)
        for k in range(boxes_BK4.shape[1]):
            anchors_B4, anchored_B = anchors_BK4[:, k], use_truth_BK[:, k]
            around_B4 = np.where(anchored_B[:, None], anchors_B4, last_B4)
            scale_B = np.where(anchored_B, scales(anchors_B4), scale_B)
            regions = [
                geometry_for_box(centred_box(box_centre(box), np.array([scale, scale])), settings.search_factor, size)
                for box, scale in zip(around_B4, scale_B, strict=True)
            ]
            frames = [clip[k] for clip in clips]
            for frame, region, out in zip(frames, regions, upload.crops_BSS3, strict=True):
                crop(frame, region, out=out)
            inside_B4, seen_B = truth_in_crops(boxes_BK4[:, k], present_BK[:, k], regions)
            pixels_BSS3, crops_B3, boxes_B4, present_B = upload.send(regions, inside_B4, seen_B)
            if not self.config.track.registration:
                context = unregistered_context(context, crops_B3)
            registered = None if context is None else register_context(context, crops_B3, self.grid)
            output = network.forward_search(to_input(pixels_BSS3, device), memory, registered)
            yield Located(output, boxes_B4, present_B)

            with torch.no_grad():
                found_B4, scores_B = network.decode(output, window)
                if teaches:
                    trusted_B = (scores_B >= self.config.track.context_confidence).float()
                    context = updated_context(context, output.features.float(), self.grid, crops_B3, trusted_B)
            last_B4 = boxes_in_frames(to_host(found_B4), regions, frames)
            scale_B = ema_scale(scale_B, scales(last_B4), self.config.track.size_gain)


class FrameUpload:
    """A host buffer for one frame of B clips, crops and numbers side by side, so that a frame is one copy.

    Attributes:
        crops_BSS3: (B, S, S, 3) uint8, to be filled before :meth:`send`.
    """

    _NUMBERS = 8  # float32 before each crop: its geometry (3), the true box (4), whether the target is there

    def __init__(self, count: int, size: int, device: torch.device) -> None:
        shape = (count, 4 * self._NUMBERS + size * size * 3)
        if device.type == "cuda" and torch.cuda.is_available():  # page-locked, so that the copy runs beside the host
            self._rows = torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()
        else:
            self._rows = np.empty(shape, np.uint8)
        self._device, self._size = device, size
        self.crops_BSS3 = self._rows[:, 4 * self._NUMBERS :].reshape(count, size, size, 3)

    def send(
        self, regions: list[CropGeometry], boxes_B4: np.ndarray, present_B: np.ndarray
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Copy a frame to the device: its crops (B, S, S, 3) uint8, their geometry (B, 3), true boxes (B, 4) and which
        targets are there (B,). The buffer is free again once something that was computed from them has been read.
        """
        numbers = self._rows[:, : 4 * self._NUMBERS].view(np.float32)
        numbers[:, :3] = [[region.cx, region.cy, region.side] for region in regions]
        numbers[:, 3:7], numbers[:, 7] = boxes_B4, present_B
        there = torch.from_numpy(self._rows).to(self._device, non_blocking=True)
        numbers_B8 = there[:, : 4 * self._NUMBERS].clone().view(torch.float32)  # on a CPU, "there" is the buffer itself
        pixels = there[:, 4 * self._NUMBERS :].unflatten(1, (self._size, self._size, 3))
        return pixels, numbers_B8[:, :3], numbers_B8[:, 3:7], numbers_B8[:, 7] > 0


def build_objective(
    network: ViLTrackerNet,
    config: Config,
    probes: ForegroundProbes | None = None,
    projections: TeacherProjections | None = None,
) -> PairObjective | ClipObjective:
    """The objective of ``data.mode``."""
    if config.data.mode == "clips":
        return ClipObjective(network, config)
    return PairObjective(network, config, probes, projections)


def compile_parts(network: ViLTrackerNet) -> None:
    """Compile stem, head and each sublayer by itself: sublayers of one direction share their code, so that compiling
    takes minutes less than that of the network as a whole.
    """
    for part in (*network.backbone.sublayers, network.backbone.patch_embed, network.head):
        part.forward = torch.compile(part.forward, dynamic=False)  # type: ignore[method-assign]


def device_of(network: nn.Module) -> torch.device:
    """Where a network's parameters are."""
    return next(network.parameters()).device


def scales(boxes_B4: np.ndarray) -> np.ndarray:
    """√(w·h) of boxes (B, 4) xywh."""
    return np.array([box_scale(box) for box in boxes_B4])


def truth_in_crops(
    boxes_B4: np.ndarray, present_B: np.ndarray, regions: list[CropGeometry]
) -> tuple[np.ndarray, np.ndarray]:
    """True boxes (B, 4) as xyxy in units of the crops, and whether each crop holds the (visible) target's centre."""
    inside = np.stack([region.to_crop(box) for region, box in zip(regions, boxes_B4, strict=True)])
    centre = (inside[:, :2] + inside[:, 2:]) / 2
    seen = present_B & (centre >= 0).all(1) & (centre <= 1).all(1)
    return inside.astype(np.float32), seen


def boxes_in_frames(found_B4: np.ndarray, regions: list[CropGeometry], frames: list[np.ndarray]) -> np.ndarray:
    """Decoded boxes (B, 4) as xywh in pixels of the frames, clipped to them as a session does."""
    boxes = [
        clip_box(region.to_image(box), frame.shape[1], frame.shape[0])
        for box, region, frame in zip(found_B4.astype(np.float64), regions, frames, strict=True)
    ]
    return np.stack(boxes)
