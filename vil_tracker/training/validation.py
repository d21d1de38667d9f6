"""What is measured while a network trains: overlap on held-out samples, and one-pass AUC on a few sequences.

Both are shared out over the processes of the run, and each process's loader workers make its samples and decode its
frames. What is measured, and in which batches, does not depend on the number of processes. All processes of a run get
the same score bit for bit. A run of another number of processes gets it to float32's rounding: the libraries below
PyTorch choose their code by the processor and by where in memory a matrix lies, so that two processes may answer one
batch with a different last bit.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import Dataset

from vil_tracker.boxes import convert, iou
from vil_tracker.config import Config
from vil_tracker.data.dataset import SequenceDataset, open_split
from vil_tracker.data.pairs import SequenceSource
from vil_tracker.data.sampling import Mixture, Samples, Source, build_loader, item_loader
from vil_tracker.data.sequence import Sequence
from vil_tracker.data.sources import build_source
from vil_tracker.errors import UserError
from vil_tracker.evaluation.metrics import success_auc
from vil_tracker.evaluation.run import track_sequence
from vil_tracker.models.network import ViLTrackerNet
from vil_tracker.runtime import Ranks
from vil_tracker.tracking.tracker import Tracker
from vil_tracker.training.objectives import build_objective, device_of

log = logging.getLogger(__name__)

HELD_OUT = 0xFFFFFFFF  # in the place of the epoch: no training sample is ever made from it
BATCH = 16  # held-out samples measured together, whatever the number of processes
ALONE = Ranks()
ANYWAY = "!"  # after a split's name: validate on it although the run trains on it


class HeldOutSamples(Samples):
    """The held-out samples by their number, at full difficulty; the same whatever the run's seed."""

    def difficulty(self, index: int) -> float:
        return 1.0

    def generator(self, index: int) -> np.random.Generator:
        return np.random.default_rng((0, HELD_OUT, index))


@dataclass(frozen=True)
class Validation:
    """A fixed set of measurements: on held-out samples of ``source``, and on ``sequences``, which are tracked from
    their first frame (there may be none).
    """

    config: Config
    source: Source
    sequences: tuple[Sequence, ...] = ()

    @torch.no_grad()
    def measure(self, network: ViLTrackerNet, ranks: Ranks = ALONE) -> dict[str, float]:
        """Scores of a network, higher is better: ``iou``, the mean overlap of the decoded box with the truth over
        held-out samples (in clips, over all frames whose crop holds the target), and ``auc``, the mean one-pass AUC of
        the sequences, where there are any. The network's mode is left as it was.

        The ``ranks`` share the work: all of them call this, with the same network, and get all scores.

        Raises:
            UserError: a sample or sequence could not be read, here or in another process.
        """
        training = network.training
        network.eval()
        try:
            scores = {}
            if self.config.train.validation_pairs:
                overlaps = np.concatenate(_shared(lambda: self._overlaps(network, ranks), ranks))
                scores["iou"] = float(overlaps.mean()) if len(overlaps) else 0.0
            if self.sequences:
                scores["auc"] = float(np.mean(_shared(lambda: self._aucs(network, ranks), ranks)))
            return scores
        finally:
            network.train(training)

    def _overlaps(self, network: ViLTrackerNet, ranks: Ranks) -> dict[int, np.ndarray]:
        """Overlaps of this process's batches, by their number."""
        settings = self.config.train
        objective = build_objective(network, replace(self.config, train=replace(settings, compile=False)))
        numbers = range(0, settings.validation_pairs, BATCH)
        batches = [list(range(first, min(first + BATCH, settings.validation_pairs))) for first in numbers]
        mine = range(ranks.rank, len(batches), ranks.world)
        count, workers = settings.validation_pairs, settings.workers
        samples = HeldOutSamples(self.source, self.config.data, settings.seed, count, workers)
        loader = build_loader(samples, [batches[i] for i in mine], settings.workers, device_of(network).type == "cuda")
        overlaps: dict[int, np.ndarray] = {}
        for number, loaded in zip(mine, loader, strict=True):
            if loaded.fault is not None:
                raise UserError(f"held-out sample {loaded.fault.sample} could not be made: {loaded.fault.message}")
            parts = []
            for output, truth_B4, present_B in objective.locate(loaded.batch):
                found_B4, _ = network.decode(output)
                found, truth = (convert(boxes.double().cpu().numpy(), "xyxy", "xywh") for boxes in (found_B4, truth_B4))
                parts.append(iou(found, truth)[present_B.cpu().numpy()])
            overlaps[number] = np.concatenate(parts)
        return overlaps

    def _aucs(self, network: ViLTrackerNet, ranks: Ranks) -> dict[int, float]:
        """AUC of this process's sequences, by their number."""
        mine = shares([len(sequence) for sequence in self.sequences], ranks.world)[ranks.rank]
        sequences = [self.sequences[number] for number in mine]
        frames = frames_ahead(sequences, self.config.train.workers)
        scores = {}
        for number, sequence in zip(mine, sequences, strict=True):
            found = track_sequence(Tracker(network, self.config.track), sequence, frames)
            truth = np.where(sequence.visible[:, None], sequence.boxes, np.nan)
            scores[number] = success_auc(found.boxes, truth)
        return scores


def shares(lengths: list[int], world: int) -> list[list[int]]:
    """Which sequences each process tracks: the longest first, each to the process with the fewest frames so far."""
    parts: list[list[int]] = [[] for _ in range(world)]
    loads = [0] * world
    for number in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        rank = loads.index(min(loads))
        parts[rank].append(number)
        loads[rank] += lengths[number]
    return parts


def _shared(measure: Callable[[], dict[int, Any]], ranks: Ranks) -> list[Any]:
    """What all processes measured, in the order of the numbers; a fault in one of them is raised in all."""
    fault, own = "", {}
    try:
        own = measure()
    except UserError as error:
        fault = str(error)
    gathered: list[Any] = [(own, fault)]
    if ranks.world > 1:
        gathered = [None] * ranks.world
        dist.all_gather_object(gathered, (own, fault))
    for _, fault in gathered:
        if fault:
            raise UserError(f"validation: {fault}")
    together = {number: value for part, _ in gathered for number, value in part.items()}
    return [together[number] for number in sorted(together)]


class _AllFrames(Dataset):
    """Every frame of some sequences, one after the other, or why it cannot be read."""

    def __init__(self, sequences: list[Sequence]) -> None:
        self.sequences = sequences
        self.places = [(number, k) for number, sequence in enumerate(sequences) for k in range(len(sequence))]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> np.ndarray | UserError:
        number, k = self.places[index]
        try:
            return self.sequences[number].frames[k]
        except UserError as error:
            return error


def frames_ahead(sequences: list[Sequence], workers: int) -> Iterator[np.ndarray]:
    """The frames of all sequences in order, which loader workers decode ahead; UserError if one cannot be read."""
    if not sequences:
        return
    for frame in item_loader(_AllFrames(sequences), workers):
        if isinstance(frame, UserError):
            raise frame
        yield frame


def build_validation(
    config: Config, data_root: Path, source: Source, cache_folder: Path | None = None, *, trust: bool = False
) -> Validation | None:
    """What the configuration asks to be measured, or None. Held-out samples are taken from the ``source`` of the
    training samples where ``data.validation`` names no other. Other arguments as for :func:`build_source`.

    Raises:
        UserError: a data set or ``train.validation_sequences`` is not found, or is what the run trains on.
    """
    wanted = config.train.validation_sequences
    if not config.train.validation_pairs and not wanted:
        return None
    training = source
    if config.data.validation:
        source = build_source(config, data_root, cache_folder, sources=config.data.validation, trust=trust)
    sequences: tuple[Sequence, ...] = ()
    if wanted:
        dataset = open_split(wanted.removesuffix(ANYWAY), data_root=data_root, cache_dir=cache_folder, trust=trust)
        if not wanted.endswith(ANYWAY):
            _refuse_training_data(wanted, dataset, training)
        log.info("validation: %d sequences of %s:%s in %s", len(dataset), dataset.name, dataset.split, dataset.folder)
        sequences = tuple(dataset)
    return Validation(config, source, sequences)


def _refuse_training_data(wanted: str, dataset: SequenceDataset, training: Source) -> None:
    """Raise UserError where sequences to validate on are, or could be, trained on."""
    advice = f"name another split, or write {wanted}{ANYWAY} to validate on it all the same"
    if dataset.split in ("vot_train", "vot_allowed") or dataset.split.startswith("train"):
        raise UserError(f"train.validation_sequences: {wanted} is a training split: {advice}")
    for source in training.sources if isinstance(training, Mixture) else (training,):
        if isinstance(source, SequenceSource) and source.dataset.folder == dataset.folder:
            trained = {source.dataset.name_of(int(i)) for i in source.usable}
            both = [name for name in dataset.names if name in trained]
            if both:
                raise UserError(
                    f"train.validation_sequences: the run trains on {len(both)} sequences of {wanted}, such as "
                    f"{both[0]}: {advice}"
                )
