"""A contact sheet of training samples with their boxes: look at the data before training on it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from vil_tracker.config import Config
from vil_tracker.data.crops import crop, geometry_for_box
from vil_tracker.data.sampling import ClipSample, Fault, PairSample, Samples, Source
from vil_tracker.errors import UserError
from vil_tracker.images import write_image
from vil_tracker.io.pictures import Thumbnail, contact_sheet
from vil_tracker.training.objectives import truth_in_crops

TRUTH, ANCHOR, MISSING = (40, 220, 70), (255, 200, 30), (230, 60, 50)
GAP = 6
COLUMNS = 4  # of pairs; a clip has a row to itself


def write_contact_sheet(config: Config, source: Source, path: Path, count: int, first: int = 0) -> Path:
    """Draw the samples ``first`` to ``first + count - 1`` of a run, exactly as training sees them.

    A pair is its template and its search crop; a clip is its template and the crops around its jittered truth, which
    is where training cuts them for ``train.truth_share`` of the frames. The target's box is green; a search crop
    without the target has a red rim; the number is the sample's index. In clips a yellow rim marks crops that training
    centres on its own last box instead.

    Raises:
        UserError: no samples are asked for, or one cannot be made.
    """
    if count < 1 or first < 0:
        raise UserError(f"--show-samples {count} --first-sample {first}: ask for at least one sample, from 0 on")
    total = config.train.steps * config.train.batch_size
    samples = Samples(source, config.data, config.train.seed, total)
    drawn = []
    for index in range(first, first + count):
        sample = samples[index]
        if isinstance(sample, Fault):
            raise UserError(f"sample {index} could not be made: {sample.message}")
        pictures = _pair(sample) if isinstance(sample, PairSample) else _clip(sample, config)
        drawn.append(Thumbnail(_beside(pictures), str(index)))
    write_image(path, contact_sheet(drawn, COLUMNS if config.data.mode == "pairs" else 1))
    return path


def _pair(sample: PairSample) -> list[np.ndarray]:
    search = sample.search.copy()
    if sample.present:
        _draw(search, sample.search_box, TRUTH)
    else:
        _rim(search, MISSING)
    template = sample.template.copy()
    _draw(template, sample.template_box, TRUTH)
    return [template, search]


def _clip(sample: ClipSample, config: Config) -> list[np.ndarray]:
    model = config.model
    template = sample.template.copy()
    _draw(template, sample.template_box, TRUTH)
    pictures = [template]
    for frame, box, present, anchor, use_truth in zip(*sample[2:], strict=True):
        region = geometry_for_box(anchor, model.search_factor, model.search_size)
        picture = crop(frame, region)
        (inside,), (seen,) = truth_in_crops(box[None], np.array([present]), [region])
        if seen:
            _draw(picture, inside, TRUTH)
        else:
            _rim(picture, MISSING)
        if not use_truth:
            _rim(picture[3:-3, 3:-3], ANCHOR)
        pictures.append(picture)
    return pictures


def _draw(picture: np.ndarray, box: np.ndarray, colour: tuple[int, int, int]) -> None:
    x1, y1, x2, y2 = (int(round(float(v) * len(picture))) for v in box)
    cv2.rectangle(picture, (x1, y1), (x2 - 1, y2 - 1), colour, 2)


def _rim(picture: np.ndarray, colour: tuple[int, int, int]) -> None:
    for part in (picture[:3], picture[-3:], picture[:, :3], picture[:, -3:]):
        part[:] = colour


def _beside(pictures: list[np.ndarray]) -> np.ndarray:
    height = max(len(picture) for picture in pictures)
    return np.concatenate(
        [np.pad(p, ((0, height - len(p)), (0, GAP), (0, 0)), constant_values=255) for p in pictures], axis=1
    )
