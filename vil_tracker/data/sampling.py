"""From sources to batches: each sample depends on (seed, epoch, index) and on nothing else.

So any sample can be made again and looked at, a resumed run sees the samples that the uninterrupted one would have
seen, and the number of loader workers or processes changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from vil_tracker.config import DataConfig


class PairSample(NamedTuple):
    """A template crop and a search crop of the same target.

    Attributes:
        template: (T, T, 3) uint8 RGB.
        template_box: (4,) float32 xyxy in units of the template crop.
        search: (S, S, 3) uint8 RGB.
        search_box: (4,) float32 xyxy in units of the search crop.
        present: False where the target is not in the search crop (the box is then without meaning).
    """

    template: np.ndarray
    template_box: np.ndarray
    search: np.ndarray
    search_box: np.ndarray
    present: bool


class PairSource(Protocol):
    """Anything that makes pairs: a data set of videos, of stills, or a synthetic scene."""

    def sample(self, rng: np.random.Generator, difficulty: float) -> PairSample: ...


@dataclass(frozen=True)
class Mixture:
    """Several sources, drawn from by weight."""

    sources: tuple[PairSource, ...]
    weights: tuple[float, ...]

    def sample(self, rng: np.random.Generator, difficulty: float) -> PairSample:
        weights = np.asarray(self.weights, np.float64)
        chosen = int(rng.choice(len(self.sources), p=weights / weights.sum()))
        return self.sources[chosen].sample(rng, difficulty)


class Samples(Dataset):
    """The run's samples as a map from the global sample index.

    Args:
        source: where samples come from.
        config: curriculum and epoch size.
        seed: of the run.
        total: samples in the whole run, which the curriculum refers to.
    """

    def __init__(self, source: PairSource, config: DataConfig, seed: int, total: int) -> None:
        self.source, self.config, self.seed, self.total = source, config, seed, total

    def __len__(self) -> int:
        return self.total

    def difficulty(self, index: int) -> float:
        """From 0.25 at the start to 1 after the curriculum's share of the run."""
        if self.config.curriculum == 0:
            return 1.0
        return min(1.0, 0.25 + 0.75 * index / (self.config.curriculum * self.total))

    def generator(self, index: int) -> np.random.Generator:
        epoch, within = divmod(index, self.config.epoch_samples)
        return np.random.default_rng((self.seed, epoch, within))

    def __getitem__(self, index: int) -> PairSample:
        return self.source.sample(self.generator(index), self.difficulty(index))


class StepSampler(Sampler[list[int]]):
    """Global sample indices of each forward pass of one rank, from ``first_step`` to the end of the run.

    Step s uses the samples [s·batch, (s + 1)·batch); they are dealt out in order to ``accumulate`` forward passes and
    within each to the ranks, so that one process and many see the same global batches.
    """

    def __init__(self, steps: range, batch_size: int, accumulate: int, rank: int, world: int) -> None:
        self.steps, self.batch_size, self.accumulate, self.rank, self.world = steps, batch_size, accumulate, rank, world
        self.share = batch_size // (accumulate * world)

    def __len__(self) -> int:
        return len(self.steps) * self.accumulate

    def __iter__(self) -> Iterator[list[int]]:
        for step in self.steps:
            for part in range(self.accumulate):
                first = step * self.batch_size + (part * self.world + self.rank) * self.share
                yield list(range(first, first + self.share))


class PairBatch(NamedTuple):
    """B pairs; images stay uint8 and channels-last until they are on the device."""

    templates: Tensor  # (B, 1, T, T, 3) uint8
    template_boxes: Tensor  # (B, 1, 4)
    search: Tensor  # (B, S, S, 3) uint8
    search_boxes: Tensor  # (B, 4)
    present: Tensor  # (B,) bool


def collate(samples: Sequence[PairSample]) -> PairBatch:
    """Stack samples into one batch."""
    return PairBatch(
        torch.from_numpy(np.stack([sample.template for sample in samples])[:, None]),
        torch.from_numpy(np.stack([sample.template_box for sample in samples])[:, None].astype(np.float32)),
        torch.from_numpy(np.stack([sample.search for sample in samples])),
        torch.from_numpy(np.stack([sample.search_box for sample in samples]).astype(np.float32)),
        torch.tensor([sample.present for sample in samples]),
    )


def build_loader(samples: Samples, sampler: StepSampler, workers: int, pin_memory: bool) -> DataLoader:
    """A loader that yields one :class:`PairBatch` per forward pass, in the order of the steps."""
    return DataLoader(
        samples,
        batch_sampler=sampler,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=pin_memory,
        persistent_workers=False,
        prefetch_factor=4 if workers else None,
        worker_init_fn=_start_worker if workers else None,
    )


def _start_worker(_: int) -> None:
    """One thread per worker: the cores belong to the workers as a whole."""
    import cv2

    torch.set_num_threads(1)
    cv2.setNumThreads(0)
