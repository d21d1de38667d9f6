"""From sources to batches: each sample depends on (seed, epoch, index) and on nothing else.

So any sample can be made again and looked at, a resumed run sees the samples that the uninterrupted one would have
seen, and the number of loader workers or processes changes nothing.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate, get_worker_info

from vil_tracker.config import DataConfig
from vil_tracker.data.skipping import SkippedFiles
from vil_tracker.errors import UserError
from vil_tracker.runtime import set_threads


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


class ClipSample(NamedTuple):
    """A template crop and K later frames of the same video, in order.

    Frames are whole pictures, or a window of them around the target's path, so that search crops can be cut where the
    tracker believes the target to be. Boxes are xywh in pixels of these frames.

    Attributes:
        template: (T, T, 3) uint8 RGB.
        template_box: (4,) float32 xyxy in units of the template crop.
        frames: (K, H, W, 3) uint8 RGB.
        boxes: (K, 4) float32 true boxes; where the target is not present, the last one before.
        present: (K,) bool.
        anchors: (K, 4) float32, the truth as a tracker might have it: shifted and scaled a little.
        use_truth: (K,) bool, True where the search crop is to be centred on the anchor rather than on the tracker's
            last box; True in the first frame.
    """

    template: np.ndarray
    template_box: np.ndarray
    frames: np.ndarray
    boxes: np.ndarray
    present: np.ndarray
    anchors: np.ndarray
    use_truth: np.ndarray


class Source(Protocol):
    """Anything that makes pairs or clips: a data set of videos, of stills, or a synthetic scene. ``skipped`` counts its
    damaged pictures; None where nothing is read from files.
    """

    @property
    def skipped(self) -> SkippedFiles | None: ...

    def sample(self, rng: np.random.Generator, difficulty: float) -> PairSample | ClipSample: ...


@dataclass(frozen=True)
class Mixture:
    """Several sources, drawn from by weight."""

    sources: tuple[Source, ...]
    weights: tuple[float, ...]

    @property
    def skipped(self) -> SkippedFiles | None:
        """The damaged pictures of all sources together."""
        counters = [source.skipped for source in self.sources if source.skipped is not None]
        return SkippedFiles(1.0).merge(counters) if counters else None

    def sample(self, rng: np.random.Generator, difficulty: float) -> PairSample | ClipSample:
        weights = np.asarray(self.weights, np.float64)
        chosen = int(rng.choice(len(self.sources), p=weights / weights.sum()))
        return self.sources[chosen].sample(rng, difficulty)


class Fault(NamedTuple):
    """Why a sample could not be made; it travels to the training process, which says so in one line."""

    sample: int
    message: str


class Samples(Dataset):
    """The run's samples as a map from the global sample index.

    Attributes:
        total: samples in the whole run, which the curriculum refers to.
        working_on: (W, 2) shared between processes: each loader worker's process id and the sample it is making.
    """

    def __init__(self, source: Source, config: DataConfig, seed: int, total: int, workers: int = 0) -> None:
        self.source, self.config, self.seed, self.total = source, config, seed, total
        self.working_on = torch.full((max(workers, 1), 2), -1, dtype=torch.int64).share_memory_()

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

    def __getitem__(self, index: int) -> PairSample | ClipSample | Fault:
        worker = get_worker_info()
        if worker is not None:
            self.working_on[worker.id, 0], self.working_on[worker.id, 1] = os.getpid(), index
        try:
            return self.source.sample(self.generator(index), self.difficulty(index))
        except UserError as error:
            return Fault(index, str(error))
        except Exception as error:
            raise RuntimeError(f"sample {index} (seed {self.seed}) could not be made: {error!r}") from error

    def report(self) -> SkippedFiles | None:
        """This process's damaged pictures so far."""
        counter, worker = self.source.skipped, get_worker_info()
        return counter and SkippedFiles(1.0, worker.id if worker else 0).merge([counter])

    def sample_of(self, error: RuntimeError) -> int | None:
        """The sample that a loader process was making when it died, from the loader's complaint; None if it says
        something else.
        """
        if "DataLoader worker" not in str(error):
            return None
        dead = {int(number) for number in re.findall(r"\d+", str(error))}
        return next((int(index) for pid, index in self.working_on.tolist() if pid in dead), None)


def step_batches(steps: range, batch_size: int, accumulate: int, rank: int, world: int) -> Iterator[list[int]]:
    """Global sample indices of each forward pass of one rank, in ``steps`` of the run.

    Step s uses the samples [s·batch, (s + 1)·batch); they are dealt out in order to ``accumulate`` forward passes and
    within each to the ranks, so that one process and many see the same global batches.
    """
    share = batch_size // (accumulate * world)
    for step in steps:
        for part in range(accumulate):
            first = step * batch_size + (part * world + rank) * share
            yield list(range(first, first + share))


class PairBatch(NamedTuple):
    """B pairs; images stay uint8 and channels-last until they are on the device."""

    templates: Tensor  # (B, 1, T, T, 3) uint8
    template_boxes: Tensor  # (B, 1, 4)
    search: Tensor  # (B, S, S, 3) uint8
    search_boxes: Tensor  # (B, 4)
    present: Tensor  # (B,) bool


class ClipBatch(NamedTuple):
    """B clips of K frames each; frames stay on the host, where their crops are cut."""

    templates: Tensor  # (B, 1, T, T, 3) uint8
    template_boxes: Tensor  # (B, 1, 4)
    frames: list[Tensor]  # B of (K, H, W, 3) uint8, each clip of its own size
    boxes: Tensor  # (B, K, 4) xywh in pixels
    present: Tensor  # (B, K) bool
    anchors: Tensor  # (B, K, 4) xywh in pixels
    use_truth: Tensor  # (B, K) bool


class Loaded(NamedTuple):
    """What the loader yields: a batch with the indices of its samples, or the fault that prevented it."""

    indices: list[int]
    batch: PairBatch | ClipBatch | None
    fault: Fault | None = None
    skipped: SkippedFiles | None = None


def collate(samples: Sequence[PairSample | ClipSample]) -> PairBatch | ClipBatch:
    """Stack samples into one batch."""
    template, template_box, third, *labels = zip(*samples, strict=True)
    first = default_collate(template)[:, None], default_collate(template_box)[:, None]
    others = map(default_collate, labels)
    if isinstance(samples[0], PairSample):
        return PairBatch(*first, default_collate(third), *others)
    return ClipBatch(*first, [torch.from_numpy(clip) for clip in third], *others)


class _Batches(Dataset):
    """Batches by the list of their samples' indices: a batch is made whole in one process, faults included."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __getitem__(self, indices: list[int]) -> Loaded:
        made: list[PairSample | ClipSample] = []
        for index in indices:
            sample = self.samples[index]
            if isinstance(sample, Fault):
                return Loaded(indices, None, fault=sample)
            made.append(sample)
        return Loaded(indices, collate(made), skipped=self.samples.report())


def build_loader(samples: Samples, sampler: Iterable[list[int]], workers: int, pin_memory: bool) -> DataLoader:
    """A loader that yields one :class:`Loaded` per forward pass, in the order of the steps."""
    ahead = 4 if workers else None
    return item_loader(_Batches(samples), workers, sampler=sampler, pin_memory=pin_memory, prefetch_factor=ahead)


def item_loader(dataset: Dataset, workers: int, **options: Any) -> DataLoader:
    """A loader of a data set's items as they are, in order; ``options`` are those of :class:`DataLoader`."""
    return DataLoader(
        dataset,
        batch_size=None,
        num_workers=workers,
        collate_fn=as_is,
        generator=torch.Generator(),  # or starting the loader would draw from the generator of the training step
        worker_init_fn=start_worker if workers else None,
        **options,
    )


def as_is(item: Any) -> Any:
    """What a loader without batches of its own does with an item."""
    return item


def start_worker(_: int) -> None:
    """One thread per worker: the cores belong to the workers as a whole. The worker ends with the training process."""
    set_threads(1, 0)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A killed process cannot stop its workers, and the fork server, whose children they are, lives on with them."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
