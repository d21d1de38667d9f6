"""Pairs cut out of real pictures: a template and a search crop from two frames of a video, or from one still.

Each crop is one resampling of its frame: position, scale, turn and mirroring are a single affine map.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Generic, TypeVar

import cv2
import numpy as np

from vil_tracker.boxes import box_scale
from vil_tracker.config import DataConfig, ModelConfig
from vil_tracker.data.augment import motion_kernel
from vil_tracker.data.crops import MIN_SIDE, mean_colour
from vil_tracker.data.dataset import SequenceDataset
from vil_tracker.data.sampling import PairSample
from vil_tracker.data.sequence import Sequence
from vil_tracker.data.skipping import SkippedFiles
from vil_tracker.data.synthetic.sprites import bounds, ellipse_outline, warp
from vil_tracker.errors import UserError

Cutter = TypeVar("Cutter")
Sample = TypeVar("Sample")

ATTEMPTS = 50  # draws before a data set counts as unusable
TEMPLATE_COVER = 0.5  # least visible share of a template's target


@dataclass(frozen=True)
class SampleAugmentation:
    """What all crops of a sample share (mirrored left to right, without colour), and the largest relative change of
    brightness by which each may differ.
    """

    flip: bool
    grey: bool
    brightness: float

    @staticmethod
    def draw(rng: np.random.Generator, config: DataConfig) -> SampleAugmentation:
        """Draw one for a sample."""
        return SampleAugmentation(bool(rng.random() < config.flip), bool(rng.random() < config.grey), config.brightness)

    def apply(self, rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
        """Change brightness and colour of a (..., H, W, 3) uint8 picture (all frames of a stack alike)."""
        gain = 1 + rng.uniform(-self.brightness, self.brightness)
        if self.grey:
            rows = image.reshape(-1, image.shape[-2], 3)
            grey = cv2.cvtColor(cv2.cvtColor(rows, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
            image = grey.reshape(image.shape)
        table = np.clip(np.arange(256) * gain + 0.5, 0, 255).astype(np.uint8)
        return cv2.LUT(image.reshape(-1, image.shape[-2], 3), table).reshape(image.shape)


def blurred(rng: np.random.Generator, crop: np.ndarray) -> np.ndarray:
    """A (S, S, 3) uint8 crop as a moving camera sees it."""
    length = rng.uniform(2.5, 9.0) * len(crop) / 192
    return cv2.filter2D(crop, -1, motion_kernel(length, rng.uniform(0.0, math.pi)))


def sample_crop(
    image: np.ndarray,
    box: np.ndarray,
    centre: tuple[float, float],
    side: float,
    size: int,
    *,
    angle: float = 0.0,
    stretch: float = 0.0,
    flip: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Resample a square region once, turned by ``angle`` (radians) and mirrored about its centre.

    Args:
        image: (H, W, 3) uint8 RGB.
        box: xywh in pixels of the image.
        centre, side: of the region, in pixels.
        size: side of the crop.
        stretch: log of what width over height is multiplied by, at the same area.

    Returns:
        The crop (size, size, 3) uint8, filled with the mean colour outside the image; and the box as xyxy in units of
        the crop. A turned box is taken as that of the ellipse inside it, whose bounding box does not swell.
    """
    scale = size / max(side, MIN_SIDE)
    c, s = math.cos(angle) * scale, math.sin(angle) * scale
    linear = np.array([[-c if flip else c, -s], [-s if flip else s, c]]) * np.exp([[stretch / 2], [-stretch / 2]])
    matrix = np.column_stack([linear, size / 2 - linear @ np.asarray(centre, np.float64)])
    crop = warp(image, matrix, (size, size), cv2.BORDER_CONSTANT, mean_colour(image))
    x, y, w, h = (float(v) for v in box)
    points = ellipse_outline(box) if angle else np.array([[x, y], [x + w, y + h]])
    return crop, bounds(points, matrix) / size


def clip_to_image(box: np.ndarray, image: np.ndarray) -> np.ndarray:
    """The part of an xywh box that lies in the picture: data sets differ in what they do at the frame's edge."""
    high = np.minimum(box[:2] + box[2:], (image.shape[1], image.shape[0]))
    low = np.maximum(box[:2], 0.0)
    return np.concatenate([low, np.maximum(high - low, 0.0)]) if (high > low).all() else box


def template_of(
    image: np.ndarray, box: np.ndarray, model: ModelConfig, *, flip: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The template crop and the target's box in it (xyxy in units of the crop), as a session makes it."""
    x, y, w, h = (float(v) for v in box)
    side = model.template_factor * box_scale(box)
    return sample_crop(image, box, (x + w / 2, y + h / 2), side, model.template_size, flip=flip)


def jittered(rng: np.random.Generator, box: np.ndarray, config: DataConfig, difficulty: float) -> np.ndarray:
    """An xywh box as a tracker might have it: shifted by up to half of ``centre_jitter``·√(w·h), and scaled."""
    scale = math.exp(float(np.clip(rng.normal(0.0, config.scale_jitter * difficulty), -1.0, 1.0)))
    reach = 0.5 * config.centre_jitter * box_scale(box) * scale * difficulty
    dx, dy = rng.uniform(-reach, reach, 2)
    x, y, w, h = box
    w, h, cx, cy = w * scale, h * scale, x + w / 2 + dx, y + h / 2 + dy
    return np.array([cx - w / 2, cy - h / 2, w, h])


class PairCutter:
    """From two frames and their boxes to a :class:`PairSample`."""

    def __init__(self, model: ModelConfig, config: DataConfig) -> None:
        self.model, self.config = model, config

    def make(
        self,
        rng: np.random.Generator,
        template_frame: np.ndarray,
        template_box: np.ndarray,
        search_frame: np.ndarray,
        search_box: np.ndarray,
        present: bool,
        difficulty: float,
    ) -> PairSample:
        """Cut one pair from frames (H, W, 3) uint8 RGB and boxes (4,) xywh in their pixels. The search crop is cut
        around its box even where the target is not ``present``; ``difficulty`` scales jitter and turn.
        """
        model, config = self.model, self.config
        look = SampleAugmentation.draw(rng, config)
        template, in_template = template_of(template_frame, template_box, model, flip=look.flip)
        x, y, w, h = jittered(rng, search_box, config, difficulty)
        search, in_search = sample_crop(
            search_frame,
            search_box,
            (x + w / 2, y + h / 2),
            model.search_factor * math.sqrt(max(w * h, 1.0)),
            model.search_size,
            angle=math.radians(float(np.clip(rng.normal(0.0, config.rotation * difficulty), -45, 45))),
            stretch=float(np.clip(rng.normal(0.0, config.aspect_jitter * difficulty), -0.7, 0.7)),
            flip=look.flip,
        )
        if rng.random() < config.motion_blur:
            search = blurred(rng, search)
        in_search = in_search if present else np.zeros(4)
        return PairSample(
            look.apply(rng, template),
            in_template.astype(np.float32),
            look.apply(rng, search),
            in_search.astype(np.float32),
            present,
        )


def chosen_by(patterns: str, name: str) -> bool:
    """Whether a sequence's name matches one of the patterns, joined by commas, and none of those after a ``!``."""
    words = [word.strip() for word in patterns.split(",") if word.strip()]
    wanted = [word for word in words if not word.startswith("!")]
    return (not wanted or any(fnmatchcase(name, word) for word in wanted)) and not any(
        fnmatchcase(name, word[1:]) for word in words if word.startswith("!")
    )


class SequenceSource(ABC, Generic[Cutter, Sample]):
    """Samples cut out of the sequences of one data set with at least two frames, or one still, of a visible target;
    ``names`` are patterns of those to use, as in ``SourceConfig``; empty takes all.

    Raises:
        UserError: no sequence has enough visible frames.
    """

    def __init__(self, dataset: SequenceDataset, cutter: Cutter, names: str = "") -> None:
        self.dataset, self.cutter = dataset, cutter
        good = dataset.visible_counts >= (1 if dataset.stills else 2)
        if names:
            good &= np.array([chosen_by(names, name) for name in dataset.names])
        self.usable = np.flatnonzero(good)
        if not len(self.usable):
            which = f" of {names}" if names else ""
            raise UserError(
                f"{dataset.name} {dataset.split} in {dataset.folder} has no sequence{which} with visible targets"
            )
        self.skipped = SkippedFiles(cutter.config.max_damaged)  # type: ignore[attr-defined]

    def sample(self, rng: np.random.Generator, difficulty: float) -> Sample:
        """One sample; frames that cannot be read are counted and others are drawn.

        Raises:
            UserError: too many of the pictures are damaged, or none of many sequences gave a sample.
        """
        for _ in range(ATTEMPTS):
            sample = self._make(rng, self.dataset[int(rng.choice(self.usable))], difficulty)
            if sample is not None:
                return sample
        raise UserError(
            f"{self.dataset.name} {self.dataset.split}: none of {ATTEMPTS} sequences drawn at random gave a sample; "
            "its annotations have too few visible targets, or data.max_gap and data.clip_stride are too small"
        )

    @abstractmethod
    def _make(self, rng: np.random.Generator, sequence: Sequence, difficulty: float) -> Sample | None:
        """A sample of a sequence, or None where it gives none, or a frame cannot be read."""

    def _read(self, sequence: Sequence, index: int) -> np.ndarray | None:
        name = f"{sequence.dataset}/{sequence.name}[{index}]"
        return self.skipped.attempt(name, lambda: sequence.frames[index])


class VideoPairs(SequenceSource[PairCutter, PairSample]):
    """Pairs from the sequences of one data set; those of a still are two cuts of the same picture."""

    def _make(self, rng: np.random.Generator, sequence: Sequence, difficulty: float) -> PairSample | None:
        config = self.cutter.config
        visible = np.flatnonzero(sequence.visible)
        good = visible[sequence.cover[visible] >= TEMPLATE_COVER]
        if not len(good):
            return None
        first = int(rng.choice(good))
        near = visible[(np.abs(visible - first) <= max(1.0, config.max_gap * difficulty)) & (visible != first)]
        second = int(rng.choice(near)) if len(near) else first
        other = sequence
        if rng.random() < config.negatives:
            other = self.dataset[int(rng.choice(self.usable))]
            if other.name != sequence.name:
                second = int(rng.choice(np.flatnonzero(other.visible)))
        present = other.name == sequence.name
        if present:
            other = sequence

        template = self._read(sequence, first)
        search = template if present and second == first else self._read(other, second)
        if template is None or search is None:
            return None
        boxes = clip_to_image(sequence.boxes[first], template), clip_to_image(other.boxes[second], search)
        return self.cutter.make(rng, template, boxes[0], search, boxes[1], present, difficulty)
