"""Photos and videos that are painted from a seed: material for a run that needs no download.

Their statistics are nothing like those of photos; they show that a training run works, not how well it could.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from vil_tracker.data.synthetic.clips import ClipConfig, SyntheticClips
from vil_tracker.data.synthetic.photo_pool import pool_from_arrays
from vil_tracker.errors import make_folder, write_lines
from vil_tracker.images import write_image


def painted_photo(rng: np.random.Generator, width: int = 320, height: int = 240) -> np.ndarray:
    """A picture (height, width, 3) uint8 of soft patches, grain and a dozen coloured shapes."""
    image = np.zeros((height, width, 3), np.float32)
    for cell, weight in ((96, 45.0), (24, 22.0), (5, 10.0)):
        grid = rng.normal(0.0, weight, (height // cell + 2, width // cell + 2, 3)).astype(np.float32)
        image += cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
    image += rng.uniform(60, 190, 3)
    picture = np.clip(image, 0, 255).astype(np.uint8)
    for _ in range(12):
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        centre = rng.uniform((0, 0), (width, height))
        corners = int(rng.integers(3, 9))
        angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
        radii = rng.uniform(8, 45) * rng.uniform(0.6, 1.0, corners)
        points = centre + radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        cv2.fillPoly(picture, [points.round().astype(np.int32)], colour, cv2.LINE_AA)
    return picture


def paint_data(folder: Path, *, photos: int = 24, videos: int = 3, frames: int = 40, seed: int = 0) -> None:
    """Write a small data root: ``stills/*.jpg`` to train on, and ``videos/`` to evaluate on (one folder of frames
    and a ``groundtruth_rect.txt`` each).

    Raises:
        UserError: the folder cannot be written.
    """
    painted = [painted_photo(np.random.default_rng((seed, i))) for i in range(photos + videos)]
    for i, photo in enumerate(painted[:photos]):
        write_image(make_folder(folder / "stills") / f"{i:03d}.jpg", photo)
    # The videos are made of photos of their own, and keep to easy motion.
    maker = SyntheticClips(pool_from_arrays(painted[photos:]), ClipConfig(occlusion=0.0, leave=0.0, jump=0.0))
    for i in range(videos):
        sequence = maker.sample_clip(np.random.default_rng((seed, photos, i)), frames, 0.5)
        target = make_folder(folder / "videos" / f"painted-{i + 1}")
        for k in range(len(sequence)):
            write_image(make_folder(target / "img") / f"{k + 1:04d}.jpg", sequence.frames[k])
        lines = (",".join(f"{value:.2f}" for value in box) for box in sequence.boxes)
        write_lines(target / "groundtruth_rect.txt", lines)
