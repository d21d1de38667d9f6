"""What is measured while a network trains: overlap on held-out samples, and one-pass AUC on a few sequences."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from vil_tracker.boxes import convert, iou
from vil_tracker.config import Config
from vil_tracker.data.dataset import open_folder
from vil_tracker.data.sampling import ClipBatch, PairBatch, Source, collate
from vil_tracker.data.sequence import Sequence
from vil_tracker.data.sources import build_source
from vil_tracker.evaluation.metrics import success_auc
from vil_tracker.evaluation.run import track_sequence
from vil_tracker.models.network import ViLTrackerNet
from vil_tracker.tracking.tracker import Tracker
from vil_tracker.training.objectives import build_objective

HELD_OUT = 0xFFFFFFFF  # in the place of the epoch: no training sample is ever made from it


@dataclass(frozen=True)
class Validation:
    """A fixed set of measurements.

    Attributes:
        config: of the run.
        source: makes the held-out samples.
        sequences: what is tracked from its first frame; may be empty.
    """

    config: Config
    source: Source
    sequences: tuple[Sequence, ...] = ()

    @torch.no_grad()
    def measure(self, network: ViLTrackerNet) -> dict[str, float]:
        """Scores of a network, higher is better; the network's mode is left as it was.

        Returns:
            ``iou``: mean overlap of the decoded box with the truth over held-out samples (in clips, over all frames
            whose crop holds the target). ``auc``: mean one-pass AUC of the sequences, where there are any.
        """
        training = network.training
        network.eval()
        try:
            scores = {}
            if self.config.train.validation_pairs:
                scores["iou"] = self._overlap(network)
            if self.sequences:
                scores["auc"] = self._auc(network)
            return scores
        finally:
            network.train(training)

    def _overlap(self, network: ViLTrackerNet) -> float:
        objective = build_objective(network, replace(self.config, train=replace(self.config.train, compile=False)))
        overlaps = []
        for batch in self._batches():
            for output, truth_B4, present_B in objective.locate(batch):  # type: ignore[arg-type]  # both of data.mode
                found_B4, _ = network.decode(output)
                found, truth = (convert(boxes.double().cpu().numpy(), "xyxy", "xywh") for boxes in (found_B4, truth_B4))
                overlaps.append(iou(found, truth)[present_B.cpu().numpy()])
        values = np.concatenate(overlaps)
        return float(values.mean()) if len(values) else 0.0

    def _batches(self) -> Iterator[PairBatch | ClipBatch]:
        settings = self.config.train
        for first in range(0, settings.validation_pairs, settings.batch_size):
            indices = range(first, min(first + settings.batch_size, settings.validation_pairs))
            generators = (np.random.default_rng((settings.seed, HELD_OUT, index)) for index in indices)
            yield collate([self.source.sample(rng, 1.0) for rng in generators])

    def _auc(self, network: ViLTrackerNet) -> float:
        scores = []
        for sequence in self.sequences:
            found = track_sequence(Tracker(network, self.config.track), sequence)
            scores.append(success_auc(found.boxes, np.where(sequence.visible[:, None], sequence.boxes, np.nan)))
        return float(np.mean(scores))


def build_validation(
    config: Config, data_root: Path, source: Source, cache_folder: Path | None = None
) -> Validation | None:
    """What the configuration asks to be measured, or None.

    Args:
        config: of the run.
        data_root: folder that holds the data sets.
        source: of the training samples; held-out ones are taken from it where ``data.validation`` names no other.
        cache_folder: where decoded photos and indices are kept.

    Raises:
        UserError: a data set or ``train.validation_sequences`` is not found.
    """
    folder = config.train.validation_sequences
    if not config.train.validation_pairs and not folder:
        return None
    if config.data.validation:
        source = build_source(config, data_root, cache_folder, sources=config.data.validation)
    sequences = tuple(open_folder(Path(data_root) / folder, cache_dir=cache_folder)) if folder else ()
    return Validation(config, source, sequences)
