"""Causal clips: a template frame and K later frames of the same video, for training the temporal part.

A clip's frames travel as small pictures: a window around the target's path, wide enough for search crops that miss the
target by half their side, at the resolution that those crops need. The crops themselves are cut in training, where the
tracker's own last box is known.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from vil_tracker.config import DataConfig, ModelConfig
from vil_tracker.data.pairs import (
    TEMPLATE_COVER,
    SampleAugmentation,
    SequenceSource,
    blurred,
    box_scale,
    clip_to_image,
    jittered,
    template_of,
)
from vil_tracker.data.sampling import ClipSample
from vil_tracker.data.sequence import Sequence

MARGIN = 2.0  # side of the window around each true box, in sides of its search crop
MAX_SIDE = 640  # of a window, in pixels; a little more where shrinking is not worth its time


def draw_offsets(rng: np.random.Generator, config: DataConfig, difficulty: float, room: int) -> np.ndarray | None:
    """Distances (K,) of a clip's search frames from its template, ascending; None if ``room`` frames are too few."""
    count = config.clip_length
    longest = min(max(1, round(config.clip_stride * difficulty)), (room - 1) // max(count - 1, 1))
    if longest < 1:
        return None
    stride = int(rng.integers(1, longest + 1))
    gap = min(max(1, round(config.max_gap * difficulty)), room - stride * (count - 1))
    return int(rng.integers(1, gap + 1)) + stride * np.arange(count)


def window(boxes: np.ndarray, width: int, height: int, model: ModelConfig) -> tuple[np.ndarray, float]:
    """The part of the frames, ``width`` × ``height`` pixels, that a clip keeps for targets at ``boxes`` (N, 4) xywh.

    Returns:
        x1, y1, x2, y2 in whole pixels, and the factor by which the window is shrunk; 1 where that would save little.
    """
    roots = np.sqrt(np.maximum(boxes[:, 2:].prod(1), 1.0))
    half = MARGIN * model.search_factor * roots[:, None] / 2
    centre = boxes[:, :2] + boxes[:, 2:] / 2
    low = np.clip(np.floor((centre - half).min(0)), 0, (width - 1, height - 1)).astype(int)
    high = np.clip(np.ceil((centre + half).max(0)), low + 1, (width, height)).astype(int)
    scale = min(
        1.0, model.search_size / (model.search_factor * float(roots.min())), MAX_SIDE / float((high - low).max())
    )
    return np.concatenate([low, high]), scale


def cut_window(frame: np.ndarray, region: np.ndarray, scale: float) -> np.ndarray:
    """A window of a frame, shrunk by ``scale`` to whole pixels."""
    x1, y1, x2, y2 = (int(v) for v in region)
    part = frame[y1:y2, x1:x2]
    if scale == 1:
        return part
    size = (max(1, round((x2 - x1) * scale)), max(1, round((y2 - y1) * scale)))
    return cv2.resize(part, size, interpolation=cv2.INTER_AREA)


class ClipCutter:
    """From frames and boxes to a :class:`ClipSample`; ``truth_share`` is the share of frames, after the first, that are
    centred on the jittered truth.
    """

    def __init__(self, model: ModelConfig, config: DataConfig, truth_share: float) -> None:
        self.model, self.config, self.truth_share = model, config, truth_share

    def make(
        self,
        rng: np.random.Generator,
        template_frame: np.ndarray,
        template_box: np.ndarray,
        frames: list[np.ndarray],
        boxes: np.ndarray,
        visible: np.ndarray,
        difficulty: float,
    ) -> ClipSample:
        """Cut one clip, whose jitter ``difficulty`` scales.

        Args:
            template_frame, template_box: (H, W, 3) uint8 RGB, and (4,) xywh in its pixels.
            frames, boxes: K frames of one size, and (K, 4) xywh; rows without a visible target are ignored.
            visible: (K,) bool, True in the first frame.
        """
        look = SampleAugmentation.draw(rng, self.config)
        template, in_template = template_of(template_frame, template_box, self.model, flip=look.flip)
        height, width = frames[0].shape[:2]
        boxes = np.stack([clip_to_image(box, frames[0]) for box in boxes])
        region, scale = window(boxes[visible], width, height, self.model)
        cuts = [cut_window(frame, region, scale) for frame in frames]
        low = region[:2]
        ratio = np.array([cuts[0].shape[1], cuts[0].shape[0]]) / (region[2:] - low)
        boxes = np.concatenate([(boxes[:, :2] - low) * ratio, boxes[:, 2:] * ratio], axis=1)
        if look.flip:
            cuts = [part[:, ::-1] for part in cuts]
            boxes[:, 0] = cuts[0].shape[1] - boxes[:, 0] - boxes[:, 2]
        last_seen = np.maximum.accumulate(np.where(visible, np.arange(len(boxes)), 0))
        boxes = boxes[last_seen]

        anchors = np.stack([jittered(rng, box, self.config, difficulty) for box in boxes])
        use_truth = rng.random(len(boxes)) < self.truth_share
        use_truth[0] = True
        beside = use_truth & (rng.random(len(boxes)) < self.config.negatives)
        for k in np.flatnonzero(beside):
            anchors[k] = self._beside(rng, boxes[k], cuts[k].shape)
        stack = look.apply(rng, np.stack(cuts))
        for k in np.flatnonzero(rng.random(len(boxes)) < self.config.motion_blur):
            stack[k] = blurred(rng, stack[k])
        kinds = (np.float32, np.float32, np.bool_, np.float32, np.bool_)
        labels = (in_template, boxes, visible, anchors, use_truth)
        in_template, boxes, visible, anchors, use_truth = (a.astype(k) for a, k in zip(labels, kinds, strict=True))
        return ClipSample(look.apply(rng, template), in_template, stack, boxes, visible, anchors, use_truth)

    def _beside(self, rng: np.random.Generator, box: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        """A box of the same size whose search crop misses the target's centre."""
        reach = 0.55 * self.model.search_factor * box_scale(box)
        angle = rng.uniform(0.0, 2 * math.pi)
        direction = np.array([math.cos(angle), math.sin(angle)])
        direction /= np.abs(direction).max()
        return np.concatenate([box[:2] + direction * reach * rng.uniform(1.0, 1.8), box[2:]])


class VideoClips(SequenceSource[ClipCutter, ClipSample]):
    """Clips from the sequences of one data set; a still is a clip in which nothing moves but the crop."""

    def _make(self, rng: np.random.Generator, sequence: Sequence, difficulty: float) -> ClipSample | None:
        chosen = self._choose(rng, sequence, difficulty)
        if chosen is None:
            return None
        template, rows = chosen
        frames: dict[int, np.ndarray] = {}
        for index in {template, *rows.tolist()}:
            frame = self._read(sequence, index)
            if frame is None:
                return None
            frames[index] = frame
        pictures = [frames[int(index)] for index in rows]
        if len({picture.shape for picture in pictures}) > 1:
            return None
        box = clip_to_image(sequence.boxes[template], frames[template])
        boxes = sequence.boxes[rows]
        return self.cutter.make(rng, frames[template], box, pictures, boxes, sequence.visible[rows], difficulty)

    def _choose(self, rng: np.random.Generator, sequence: Sequence, difficulty: float) -> tuple[int, np.ndarray] | None:
        """Template and search frames, whose target is visible in the first and known to be so or not in all."""
        config = self.cutter.config
        good = np.flatnonzero(sequence.visible & (sequence.cover >= TEMPLATE_COVER))
        if not len(good):
            return None
        if len(sequence) == 1:
            return int(good[0]), np.repeat(good[:1], config.clip_length)
        early = good[good < len(sequence) - config.clip_length]
        if not len(early):
            return None
        template = int(rng.choice(early))
        offsets = draw_offsets(rng, config, difficulty, len(sequence) - 1 - template)
        if offsets is None:
            return None
        rows = template + offsets
        known = sequence.visible | sequence.absent | np.isfinite(sequence.boxes).all(1)
        return (template, rows) if sequence.visible[rows[0]] and known[rows].all() else None
