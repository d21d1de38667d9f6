"""From the configuration's mixture to the object that makes the samples."""

from __future__ import annotations

from pathlib import Path

from vil_tracker.config import Config, SourceConfig
from vil_tracker.data.photo_pool import load_photo_pool
from vil_tracker.data.sampling import Mixture, PairSource
from vil_tracker.data.synthetic import SyntheticPairs
from vil_tracker.errors import UserError

SYNTHETIC = "synthetic_pairs"


def build_source(config: Config, data_root: Path, cache_folder: Path | None = None) -> PairSource:
    """The mixture of ``config.data.sources``, read from below ``data_root``.

    Raises:
        UserError: no source is configured, or one of them is not found.
    """
    if not config.data.sources:
        raise UserError("data.sources is empty: name at least one data set, such as {name: synthetic_pairs}")
    built = tuple(_build(source, config, data_root, cache_folder) for source in config.data.sources)
    return Mixture(built, tuple(source.weight for source in config.data.sources))


def _build(source: SourceConfig, config: Config, data_root: Path, cache_folder: Path | None) -> PairSource:
    model = config.model
    if source.name == SYNTHETIC:
        pool = load_photo_pool(data_root, cache_folder)
        return SyntheticPairs(pool, model.template_size, model.search_size, model.template_factor, model.search_factor)
    raise UserError(f"data.sources: unknown data set {source.name!r}: {SYNTHETIC} is known")
