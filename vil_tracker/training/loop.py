"""The training loop: one function, read from top to bottom.

A step is: take a batch, predict, compare, step the optimiser, average the weights. Everything that a run needs to go
on after an interruption is in :class:`TrainingState`, and everything random follows from the seed and the step, so a
resumed run equals one that was never stopped.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from vil_tracker.config import Config, config_to_dict
from vil_tracker.data.crops import to_input
from vil_tracker.data.sampling import PairBatch, PairSource, Samples, StepSampler, build_loader
from vil_tracker.errors import UserError, make_folder
from vil_tracker.models.network import ViLTrackerNet, build_network
from vil_tracker.models.pretrained import load_weights, save_model
from vil_tracker.training import checkpoint
from vil_tracker.training.distributed import Ranks, join, leave, wrap
from vil_tracker.training.losses import LossWeights, tracking_loss
from vil_tracker.training.optim import build_ema, build_optimizer, build_scheduler

log = logging.getLogger(__name__)

Terms = dict[str, Tensor]
Forward = Callable[..., Any]


class NonFiniteLoss(UserError):
    """The loss became NaN or infinite; the message holds every term and the samples of that step."""


@dataclass
class TrainingState:
    """What a checkpoint holds, apart from the configuration."""

    network: ViLTrackerNet
    optimizer: torch.optim.Optimizer
    ema: nn.Module | None
    step: int = 0

    def to_dict(self, config: Config) -> dict[str, Any]:
        return {
            "step": self.step,
            "config": json.dumps(config_to_dict(config)),
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "ema": self.ema.module.state_dict() if self.ema is not None else None,
        }

    def restore(self, content: dict[str, Any]) -> None:
        self.network.load_state_dict(content["network"])
        self.optimizer.load_state_dict(content["optimizer"])
        if self.ema is not None:
            self.ema.module.load_state_dict(content["ema"])
        self.step = content["step"]

    @property
    def best_network(self) -> ViLTrackerNet:
        """The averaged weights where there are any."""
        return self.network if self.ema is None else self.ema.module


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make what is random inside a step (stochastic depth) a function of (seed, step, rank)."""
    value = int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])
    random.seed(value)
    torch.manual_seed(value)


def pair_step(forward: Forward, batch: PairBatch, config: Config, device: torch.device) -> tuple[Tensor, Terms]:
    """Loss of one batch of pairs."""
    output = forward(to_input(batch.templates, device), batch.template_boxes.to(device), to_input(batch.search, device))
    weights = LossWeights(config.train.loss_focal, config.train.loss_giou, config.train.loss_l1)
    return tracking_loss(output, batch.search_boxes.to(device), batch.present.to(device), weights)


def train(
    config: Config,
    source: PairSource,
    output: Path,
    *,
    device: torch.device,
    resume: bool = True,
    step_function: Callable[[Forward, Any, Config, torch.device], tuple[Tensor, Terms]] = pair_step,
    progress: bool = True,
) -> Path:
    """Train a network and write its weights.

    Args:
        config: the whole configuration.
        source: makes the samples.
        output: folder of the run: ``log.jsonl``, ``checkpoints/`` and, at the end, ``weights.safetensors``.
        device: where to compute (each process's own under torchrun).
        resume: go on from the newest intact checkpoint in ``output``; otherwise the folder must hold none.
        step_function: loss of one batch.
        progress: show a progress bar.

    Returns:
        Path of the final weights: the averaged ones, float16.

    Raises:
        NonFiniteLoss: the loss is NaN or infinite.
        UserError: the output folder cannot be written, or holds a run of another model.
    """
    ranks = join(device)
    try:
        return _train(config, source, output, ranks, resume, step_function, progress and ranks.main)
    finally:
        leave()


def _train(
    config: Config,
    source: PairSource,
    output: Path,
    ranks: Ranks,
    resume: bool,
    step_function: Callable[[Forward, Any, Config, torch.device], tuple[Tensor, Terms]],
    progress: bool,
) -> Path:
    settings = config.train
    if settings.batch_size % (settings.accumulate * ranks.world):
        raise UserError(
            f"train.batch_size is {settings.batch_size}, expected a multiple of accumulate × processes "
            f"({settings.accumulate} × {ranks.world})"
        )
    make_folder(output)
    state = build_state(config, ranks.device)
    checkpoints = output / "checkpoints"
    if resume:
        resume_state(state, checkpoints, config)
    elif checkpoint.list_states(checkpoints):
        raise UserError(f"{output} already holds a run: continue it with --resume auto or choose another --output")

    scheduler = build_scheduler(state.optimizer, settings)
    forward = wrap(state.network, ranks)
    if settings.compile:
        forward = torch.compile(forward)
    samples = Samples(source, config.data, settings.seed, settings.steps * settings.batch_size)
    steps = range(state.step, settings.steps)
    sampler = StepSampler(steps, settings.batch_size, settings.accumulate, ranks.rank, ranks.world)
    loader = iter(build_loader(samples, sampler, settings.workers, pin_memory=ranks.device.type == "cuda"))
    autocast = torch.autocast(ranks.device.type, torch.bfloat16, enabled=settings.precision == "bfloat16")
    record = _Record(output / "log.jsonl", config, ranks, state.step)
    saved_at = time.monotonic()

    state.network.train()
    for step in tqdm(steps, initial=state.step, total=settings.steps, disable=not progress, unit="step"):
        scheduler.step_update(step)
        seed_step(settings.seed, step, ranks.rank)
        state.optimizer.zero_grad(set_to_none=True)
        for part in range(settings.accumulate):
            with record.waiting():
                batch = next(loader)
            last = part == settings.accumulate - 1
            with _gradient_sync(forward, last):
                with autocast:
                    loss, terms = step_function(forward, batch, config, ranks.device)
                (loss / settings.accumulate).backward()
            record.add(step, loss.detach(), terms)
        norm = nn.utils.clip_grad_norm_(state.network.parameters(), settings.clip_grad)
        state.optimizer.step()
        state.step = step + 1
        if state.ema is not None:
            state.ema.update(state.network, state.step)

        due = time.monotonic() - saved_at > 60 * settings.checkpoint_minutes
        if state.step % settings.log_every == 0 or due or state.step == settings.steps:
            record.write(state.step, norm, state.optimizer)
        if ranks.main and (due or state.step == settings.steps):
            checkpoint.save_state(checkpoints, state.step, state.to_dict(config))
            saved_at = time.monotonic()

    weights = output / "weights.safetensors"
    if ranks.main:
        save_model(state.best_network, weights, {"steps": str(state.step)})
    return weights


def build_state(config: Config, device: torch.device) -> TrainingState:
    """A fresh network (or one started from ``train.init_from``), its optimiser and its averaged weights."""
    torch.manual_seed(config.train.seed)
    network = build_network(config.model)
    if config.train.init_from:
        load_weights(network, config.train.init_from)
    network.set_grad_checkpointing(config.train.grad_checkpointing)
    network.to(device)
    if network.temporal is not None:
        # A pair has no frame before it: the temporal part gets no gradient there, and DDP must know.
        network.temporal.requires_grad_(config.data.mode == "clips")
    return TrainingState(network, build_optimizer(network, config.train), build_ema(network, config.train))


def resume_state(state: TrainingState, checkpoints: Path, config: Config) -> None:
    """Restore the newest intact checkpoint, if there is one.

    Raises:
        UserError: it belongs to a model of another shape.
    """
    content = checkpoint.load_newest_state(checkpoints)
    if content is None:
        return
    stored = json.loads(content["config"])["model"]
    current = config_to_dict(config)["model"]
    if stored != current:
        changed = [key for key in current if stored.get(key) != current[key]]
        raise UserError(
            f"{checkpoints} holds a run of another model (model.{changed[0]} is {stored.get(changed[0])!r} there, "
            f"{current[changed[0]]!r} here): choose another --output"
        )
    state.restore(content)
    log.info("resumed from step %d", state.step)


def _gradient_sync(forward: Any, last: bool) -> Any:
    """Average gradients over processes only in a step's last forward pass."""
    return contextlib.nullcontext() if last or not hasattr(forward, "no_sync") else forward.no_sync()


class _Record:
    """Collects losses on the device and reads them only when a log line is due."""

    def __init__(self, path: Path, config: Config, ranks: Ranks, first_step: int) -> None:
        self.path, self.config, self.ranks = path, config, ranks
        self.pending: list[tuple[int, Tensor, Terms]] = []
        self.started, self.waited, self.logged_step = time.monotonic(), 0.0, first_step
        if ranks.main and first_step == 0:
            self._append({"config": config_to_dict(config)})

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Time spent inside counts as waiting for data."""
        begun = time.monotonic()
        yield
        self.waited += time.monotonic() - begun

    def add(self, step: int, loss: Tensor, terms: Terms) -> None:
        self.pending.append((step, loss, terms))

    def write(self, step: int, norm: Tensor, optimizer: torch.optim.Optimizer) -> None:
        losses = torch.stack([loss for _, loss, _ in self.pending]).float().cpu()
        if not torch.isfinite(losses).all():
            self._stop(losses)
        elapsed = time.monotonic() - self.started
        done = step - self.logged_step
        line = {
            "step": step,
            "loss": losses.mean().item(),
            **{
                name: torch.stack([terms[name] for _, _, terms in self.pending]).float().mean().item()
                for name in self.pending[0][2]
            },
            "grad_norm": norm.item(),
            "lr": max(group["lr"] for group in optimizer.param_groups),
            "samples_per_second": done * self.config.train.batch_size / max(elapsed, 1e-9),
            "waiting": self.waited / max(elapsed, 1e-9),
        }
        if self.ranks.main:
            self._append(line)
        self.pending.clear()
        self.started, self.waited, self.logged_step = time.monotonic(), 0.0, step

    def _append(self, line: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line) + "\n")

    def _stop(self, losses: Tensor) -> None:
        bad = int((~torch.isfinite(losses)).nonzero()[0])
        step, loss, terms = self.pending[bad]
        batch = self.config.train.batch_size
        shown = ", ".join(f"{name} {value.item():g}" for name, value in terms.items())
        raise NonFiniteLoss(
            f"loss is {loss.item()} at step {step} on rank {self.ranks.rank} ({shown}; samples {step * batch} to "
            f"{(step + 1) * batch - 1}): lower train.lr or look at these samples with --show-samples"
        )
