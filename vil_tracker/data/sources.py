"""From the configuration's mixture to the object that makes the samples."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path

from vil_tracker.config import Config, SourceConfig
from vil_tracker.data.clips import ClipCutter, VideoClips
from vil_tracker.data.dataset import SequenceDataset, open_dataset
from vil_tracker.data.pairs import PairCutter, VideoPairs
from vil_tracker.data.readers import READERS, unknown_data_set
from vil_tracker.data.readers.base import Place
from vil_tracker.data.readers.video_folder import held_out_targets
from vil_tracker.data.root import data_root as find_root
from vil_tracker.data.root import find_all
from vil_tracker.data.sampling import Mixture, Source
from vil_tracker.data.synthetic.pairs import SyntheticConfig, SyntheticPairs
from vil_tracker.data.synthetic.photo_pool import PhotoPool, load_photo_pool
from vil_tracker.data.synthetic.samples import SyntheticVideoClips, SyntheticVideoPairs
from vil_tracker.errors import UserError
from vil_tracker.runtime import cache_folder as default_cache

SYNTHETIC_PAIRS, SYNTHETIC_CLIPS = "synthetic_pairs", "synthetic_clips"
SPREAD = 0.12  # standard deviation of a synthetic target's shift in units of centre_jitter·√(w·h)


def build_source(
    config: Config,
    data_root: Place | None,
    cache_folder: Path | None = None,
    *,
    sources: Sequence[SourceConfig] | None = None,
    trust: bool = False,
) -> Mixture:
    """The mixture of ``config.data.sources``, or of other ``sources``, read from below ``data_root``; ``cache_folder``
    keeps decoded photos and indices, whose data are not looked at for changes with ``trust``.

    Raises:
        UserError: no source is configured, one of them is unknown or not found, or holds held-out targets.
    """
    training = sources is None
    sources = config.data.sources if sources is None else sources
    if not sources:
        raise UserError("data.sources is empty: give at least one data set, such as {name: synthetic_pairs}")
    places = find_all(find_root(data_root)) if any(source.name in READERS for source in sources) else None

    @functools.cache  # synthetic pairs and clips share one
    def pool() -> PhotoPool:
        return load_photo_pool(find_root(data_root), cache_folder)

    def build(source: SourceConfig) -> Source:
        model, data, train = config.model, config.data, config.train
        clips = data.mode == "clips"
        if source.name == SYNTHETIC_PAIRS:
            if clips:
                raise UserError(f"{SYNTHETIC_PAIRS} makes no clips: with data.mode clips use {SYNTHETIC_CLIPS}")
            synthetic = SyntheticConfig(
                negatives=data.negatives,
                grey=data.grey,
                centre_jitter=SPREAD * data.centre_jitter / model.search_factor,
                scale_jitter=data.scale_jitter,
                aspect_jitter=data.aspect_jitter,
                rotation=data.rotation,
            )
            synthetic = synthetic.only(source.kinds)
            sizes = model.template_size, model.search_size
            return SyntheticPairs(pool(), *sizes, model.template_factor, model.search_factor, synthetic)
        if source.name == SYNTHETIC_CLIPS:
            if clips:
                return SyntheticVideoClips(pool(), ClipCutter(model, data, train.truth_share))
            return SyntheticVideoPairs(pool(), PairCutter(model, data))
        if source.name not in READERS and not source.name.startswith("folder:"):
            raise UserError(f"data.sources: {unknown_data_set(source.name, SYNTHETIC_PAIRS, SYNTHETIC_CLIPS)}")
        dataset = open_dataset(
            source.name, source.split, data_root=data_root, cache_dir=cache_folder, trust=trust, places=places
        )
        if training:
            check_held_out(dataset)
        dataset.decode_videos(default_cache(cache_folder) / "frames")
        if clips:
            return VideoClips(dataset, ClipCutter(model, data, train.truth_share), source.names)
        return VideoPairs(dataset, PairCutter(model, data), source.names)

    return Mixture(tuple(map(build, sources)), tuple(source.weight for source in sources))


def check_held_out(dataset: SequenceDataset) -> None:
    """Raise UserError if a data set to train on holds a target that its folder's ``validation.txt`` holds out."""
    wrong = sorted(held_out_targets(dataset.folder) & set(dataset.names))
    if wrong:
        raise UserError(
            f"data.sources: {dataset.folder} split {dataset.split} holds {len(wrong)} held-out targets, such as "
            f"{wrong[0]}: train on split train"
        )
