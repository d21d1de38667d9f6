"""Clips and pairs cut out of synthetic videos, which are composed of still photos as they are needed."""

from __future__ import annotations

from typing import Generic, TypeVar

import numpy as np

from vil_tracker.data.clips import ClipCutter, draw_offsets
from vil_tracker.data.pairs import PairCutter
from vil_tracker.data.sampling import ClipSample, PairSample
from vil_tracker.data.sequence import Sequence
from vil_tracker.data.synthetic.clips import ClipConfig, SyntheticClips
from vil_tracker.data.synthetic.photo_pool import PhotoPool

Cutter = TypeVar("Cutter", ClipCutter, PairCutter)

BOX_NOISE = 0.03  # standard deviation of a template box's sides: users' boxes are not exact
# What must be learnt is a box that follows a target through changes of its shape, among things like it.
VIDEOS = ClipConfig(pose=1.5, limbs=0.4, turns=0.25, twins=0.2)
SYNTHETIC_GAP = 60  # frames between a video's template and its first search frame, at most


def draw_video(
    rng: np.random.Generator, videos: SyntheticClips, offsets: np.ndarray, difficulty: float
) -> tuple[Sequence, np.ndarray]:
    """A synthetic video, of which only the first frame and those at ``offsets`` are rendered (target visible in the
    first two of them), and its first box as a user would draw it: a little wrong.
    """
    keep = np.concatenate([[0], offsets])
    while True:
        video = videos.sample_clip(rng, int(keep[-1]) + 1, difficulty, keep)
        if video.visible[:2].all():
            break
    noise = np.clip(rng.normal(0.0, BOX_NOISE * min(difficulty, 1.0), 4), -0.1, 0.1)
    return video, video.boxes[0] + noise * np.tile(video.boxes[0, 2:], 2)


class _SyntheticVideos(Generic[Cutter]):
    """Samples that ``cutter`` makes of videos composed of a pool's material."""

    skipped = None  # everything is decoded beforehand: no picture can turn out to be damaged

    def __init__(self, pool: PhotoPool, cutter: Cutter) -> None:
        self.videos = SyntheticClips(pool, VIDEOS)
        self.cutter: Cutter = cutter


class SyntheticVideoClips(_SyntheticVideos[ClipCutter]):
    """Clips from videos composed of still photos."""

    def sample(self, rng: np.random.Generator, difficulty: float) -> ClipSample:
        """One clip."""
        config = self.cutter.config
        room = min(config.max_gap, SYNTHETIC_GAP) + config.clip_stride * (config.clip_length - 1)
        offsets = draw_offsets(rng, config, difficulty, room)
        assert offsets is not None, "the room is made for the longest clip"
        video, box = draw_video(rng, self.videos, offsets, difficulty)
        frames = [video.frames[i] for i in range(1, len(video))]
        return self.cutter.make(rng, video.frames[0], box, frames, video.boxes[1:], video.visible[1:], difficulty)


class SyntheticVideoPairs(_SyntheticVideos[PairCutter]):
    """Pairs of two frames of a video composed of still photos."""

    def sample(self, rng: np.random.Generator, difficulty: float) -> PairSample:
        """One pair; the search frame of a negative is another video's."""
        config = self.cutter.config
        gap = np.array([int(rng.integers(1, max(1, round(min(config.max_gap, SYNTHETIC_GAP) * difficulty)) + 1))])
        video, box = draw_video(rng, self.videos, gap, difficulty)
        present = bool(rng.random() >= config.negatives)
        searched = video if present else draw_video(rng, self.videos, gap, difficulty)[0]
        return self.cutter.make(rng, video.frames[0], box, searched.frames[1], searched.boxes[1], present, difficulty)
