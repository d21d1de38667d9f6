"""Training of the verifier on composed patches: the same object or another one, and how well the box fits."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import torch
import torch.nn.functional as F
from timm.utils import ModelEmaV3
from torch import Tensor
from torch.utils.data import DataLoader

from vil_tracker.data.synthetic.photo_pool import PhotoPool
from vil_tracker.data.synthetic.verifier import SyntheticPatches
from vil_tracker.evaluation.calibration import auroc
from vil_tracker.models.verifier import VerifierNet

_SAME, _OTHER = 0.3, 0.15  # overlaps from which and up to which a box counts as on the thing, and as on something else
_TEMPERATURE = 0.1
_ROLLS = 2  # other samples of the batch that each target is compared with


def loss(network: VerifierNet, patches: Tensor, overlap_N: Tensor) -> Tensor:
    """Log loss of both answers of a network in training mode, and InfoNCE (van den Oord et al., 2018) over the
    embeddings of the batch: patches (N, 3, PATCH_SIZE, PATCH_SIZE, 3) uint8 (first, seen, other), and overlaps (N,) of
    the box of each ``seen``.
    """
    first, seen, other = network.embed(patches.transpose(0, 1).flatten(0, 1)).chunk(3)
    count = len(first)
    partners = [seen, other, *(seen.roll(shift + 1, 0) for shift in range(_ROLLS))]
    answers = network.compare(first.repeat(len(partners), 1), torch.cat(partners)).unflatten(0, (-1, count))
    true_overlap = torch.zeros_like(answers[..., 1])
    true_overlap[0] = overlap_N
    same = torch.zeros_like(true_overlap)
    same[0] = (overlap_N >= _SAME).float()
    weight = torch.full_like(same, 1 / _ROLLS)
    weight[:2] = 1.0
    decided = weight.clone()
    decided[0] = ((overlap_N >= _SAME) | (overlap_N <= _OTHER)).float()
    identity, fit = (
        F.binary_cross_entropy_with_logits(answers[..., column], target, factor, reduction="sum") / count
        for column, (target, factor) in enumerate(((same, decided), (true_overlap, weight)))
    )

    unit = [F.normalize(part, dim=1) for part in (first, seen, other)]
    logits = unit[0] @ torch.cat(unit[1:]).T / _TEMPERATURE
    whole = overlap_N >= 0.4
    contrast = F.cross_entropy(logits[whole], torch.arange(count)[whole])
    return identity + fit + 0.5 * contrast


@torch.no_grad()
def validate(network: VerifierNet, batches: list[tuple[Tensor, Tensor]]) -> dict[str, float]:
    """AUROC between the same object and others, and the overlap's error, on held-out batches.

    Returns:
        ``auroc``: of "the same" between ``seen`` (boxes that overlap by more than a half) and ``other``; ``overlap``:
        mean absolute error of the expected overlap of ``seen``; ``half``: AUROC of that for "above a half".
    """
    network.eval()
    sames, fits, overlaps = [], [], []
    for patches, overlap in batches:
        first, seen, other = network.embed(patches.transpose(0, 1).flatten(0, 1)).chunk(3)
        answers = torch.stack([network.compare(first, seen), network.compare(first, other)])
        sames.append(answers[..., 0])
        fits.append(answers[0, :, 1].sigmoid())
        overlaps.append(overlap)
    same, fit, overlap = torch.cat(sames, 1), torch.cat(fits), torch.cat(overlaps)
    good = overlap > 0.5
    signal = torch.cat([same[0][good], same[1]])
    positive = torch.arange(len(signal)) < int(good.sum())
    return {
        "auroc": auroc(signal.numpy(), positive.numpy()) or float("nan"),
        "overlap": float((fit - overlap).abs().mean()),
        "half": auroc(fit.numpy(), good.numpy()) or float("nan"),
    }


def train_verifier(
    pool: PhotoPool,
    steps: int,
    *,
    batch: int = 96,
    lr: float = 2e-3,
    workers: int = 1,
    seed: int = 0,
    every: int = 250,
    on_report: Callable[[int, float, dict[str, float], VerifierNet], object] = lambda *_: None,
) -> VerifierNet:
    """Train a verifier from random weights.

    Args:
        pool: photos and cut-outs; a fifth of them is held aside.
        batch: samples per step, three patches each.
        lr: peak rate of AdamW under the one-cycle policy.
        on_report: called after every so many steps with the step, the mean loss since the last report,
            :func:`validate`'s figures and the averaged network.

    Returns:
        The network whose weights are averaged over the run, in evaluation mode.
    """
    torch.manual_seed(seed)
    network = VerifierNet()
    average = ModelEmaV3(network, decay=0.998, use_warmup=True)
    averaged = average.module
    assert isinstance(averaged, VerifierNet)
    optimiser = torch.optim.AdamW(network.parameters(), lr=lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, lr, total_steps=steps, pct_start=0.1)
    held_out = list(islice(SyntheticPatches(pool, 128, seed + 1, aside=True), 8))
    context = "forkserver" if workers else None
    loader = DataLoader(
        SyntheticPatches(pool, batch, seed), batch_size=None, num_workers=workers, multiprocessing_context=context
    )
    total = 0.0
    for step, (patches, overlap) in enumerate(islice(loader, steps), start=1):
        network.train()
        value = loss(network, patches, overlap)
        optimiser.zero_grad()
        value.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimiser.step()
        schedule.step()
        average.update(network, step)
        total += value.item()
        if step % every == 0 or step == steps:
            since = (step - 1) % every + 1
            on_report(step, total / since, validate(averaged, held_out), averaged)
            total = 0.0
    return averaged.eval()
