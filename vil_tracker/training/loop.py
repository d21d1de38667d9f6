"""The training loop: one function, read from top to bottom.

A step is: take a batch, predict, compare, step the optimiser, average the weights. Everything that a run needs to go
on after an interruption is in :class:`TrainingState`, and everything random follows from the seed and the step, so a
resumed run equals one that was never stopped.
"""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from vil_tracker.config import Config
from vil_tracker.data.sampling import Loaded, Samples, Source, build_loader, step_batches
from vil_tracker.errors import UserError, make_folder
from vil_tracker.models.precision import check_bfloat16, multiplies_bfloat16
from vil_tracker.models.pretrained import save_model
from vil_tracker.runtime import Ranks, leave_process_group
from vil_tracker.training import checkpoint
from vil_tracker.training.distributed import check_same, join, wrap
from vil_tracker.training.objectives import build_objective
from vil_tracker.training.optim import build_scheduler
from vil_tracker.training.record import Record, plot_curves
from vil_tracker.training.state import TrainingState, build_state, resume_state
from vil_tracker.training.validation import Validation

log = logging.getLogger(__name__)

WEIGHTS, BEST_WEIGHTS = "weights.safetensors", "best.safetensors"


def train(
    config: Config,
    source: Source,
    output: Path,
    *,
    device: torch.device,
    resume: bool = True,
    validation: Validation | None = None,
    progress: bool = True,
) -> Path:
    """Train a network and write its weights.

    Args:
        output: folder of the run: ``log.jsonl``, ``checkpoints/``, ``weights.safetensors`` (the last, float16) and,
            with validation, ``best.safetensors``; at the end ``curves.png``.
        device: where to compute (each process's own under torchrun).
        resume: go on from the newest intact checkpoint in ``output``; otherwise the folder must hold none.

    Returns:
        Path of the final weights: the averaged ones.

    Raises:
        NonFiniteLoss: the loss is NaN or infinite.
        UserError: the output folder cannot be written, or holds another run; a sample cannot be made.
    """
    ranks, device = join(device)
    torch.set_flush_denormal(True)  # decays of the mLSTM reach below 1e-38, where a CPU takes many times as long
    try:
        settings = config.train
        if settings.batch_size % (settings.accumulate * ranks.world):
            raise UserError(
                f"train.batch_size is {settings.batch_size}, expected a multiple of accumulate × processes "
                f"({settings.accumulate} × {ranks.world})"
            )
        state = build_state(config, device)  # before the folder: weights that do not fit leave nothing behind
        make_folder(output)
        scheduler = build_scheduler(state.optimizer, settings)  # reads the peak rates, so before they are restored
        checkpoints = output / "checkpoints"
        if resume:
            resume_state(state, checkpoints, config)
            check_same(state.step, "checkpoint's step", ranks, device)
        elif checkpoint.list_states(checkpoints):
            raise UserError(f"{output} already holds a run: continue it with --resume auto or choose another --output")

        objective = wrap(build_objective(state.network, config, state.probes, state.projections), ranks)
        samples = Samples(source, config.data, settings.seed, settings.steps * settings.batch_size, settings.workers)
        steps = range(state.step, settings.steps)
        sampler = step_batches(steps, settings.batch_size, settings.accumulate, ranks.rank, ranks.world)
        loader = build_loader(samples, sampler, settings.workers, pin_memory=device.type == "cuda")
        batches = _batches(loader, samples)
        precision = training_precision(settings.precision, device)
        autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
        record = Record(output, config, ranks, state.step)
        saved_at = time.monotonic()

        state.network.train()
        hidden = None if progress and ranks.main else True
        for step in tqdm(steps, initial=state.step, total=settings.steps, disable=hidden, unit="step"):
            scheduler.step_update(step)
            seed_step(settings.seed, step, ranks.rank)
            state.optimizer.zero_grad(set_to_none=True)
            for part in range(settings.accumulate):
                with record.waiting():
                    loaded = next(batches)
                last = part == settings.accumulate - 1
                with _gradient_sync(objective, last):
                    with autocast:
                        loss, terms = objective(loaded.batch)
                    (loss / settings.accumulate).backward()
                record.add(step, loss, terms, loaded.indices, loaded.skipped)
            norm = nn.utils.clip_grad_norm_(state.network.parameters(), settings.clip_grad)
            state.optimizer.step()
            state.step = step + 1
            if state.ema is not None:
                state.ema.update(state.network, state.step)

            final = state.step == settings.steps
            validate = final or (settings.validate_every > 0 and state.step % settings.validate_every == 0)
            keep = settings.keep_every > 0 and state.step % settings.keep_every == 0
            if state.step % settings.log_every == 0 or validate or keep:
                record.write(state.step, norm, state.optimizer)  # stops here rather than save what is not finite
                if validation is not None and validate:
                    _validate(validation, state, record, output / BEST_WEIGHTS, ranks)
                if not ranks.main:
                    continue
                if final or keep or time.monotonic() - saved_at > 60 * settings.checkpoint_minutes:
                    checkpoint.save_state(checkpoints, state.step, state.to_dict(config), settings.keep_every)
                    _save_weights(state, output / WEIGHTS)
                    if keep:
                        _save_weights(state, checkpoints / f"weights_{state.step:08d}.safetensors")
                    saved_at = time.monotonic()

        record.close()
        if ranks.main:
            plot_curves(record.path, output / "curves.png")
        return output / WEIGHTS
    finally:
        torch.set_flush_denormal(False)  # as the process was before
        leave_process_group()


def training_precision(setting: str, device: torch.device) -> str:
    """The precision of autocast: with "auto" bfloat16 where the device multiplies in it, else float32.

    Raises:
        UserError: bfloat16 for a device that would emulate it.
    """
    if setting == "bfloat16":
        check_bfloat16(device, "train.precision:")
    if setting != "auto":
        return setting
    return "bfloat16" if multiplies_bfloat16(device) else "float32"


def seed_step(seed: int, step: int, rank: int) -> None:
    """Make what is random inside a step (stochastic depth) a function of (seed, step, rank)."""
    value = int(np.random.SeedSequence((seed, step, rank)).generate_state(1)[0])
    random.seed(value)
    torch.manual_seed(value)


def _batches(loader: DataLoader, samples: Samples) -> Iterator[Loaded]:
    """The loader's batches; a failure becomes a one-line error that names the sample."""
    try:
        for loaded in loader:
            if loaded.fault is not None:
                raise UserError(f"sample {loaded.fault.sample} could not be made: {loaded.fault.message}")
            yield loaded
    except RuntimeError as error:
        index = samples.sample_of(error)
        if index is None:
            raise
        raise UserError(
            f"a loader process died while it made sample {index}: see it with --show-samples 1 --first-sample {index}, "
            "or lower train.workers if memory ran out"
        ) from error


def _validate(validation: Validation, state: TrainingState, record: Record, best: Path, ranks: Ranks) -> None:
    """Measure the averaged weights, shared over all processes, and keep them apart if they are the best so far."""
    scores = validation.measure(state.best_network, ranks)
    if not scores:
        return
    record.append({"step": state.step, **{f"validation_{name}": value for name, value in scores.items()}})
    score = scores.get("auc", scores.get("iou", 0.0))
    if state.best is None or score > state.best:
        state.best = score
        if ranks.main:
            _save_weights(state, best)
    log.info("step %d: %s", state.step, ", ".join(f"{name} {value:.3f}" for name, value in scores.items()))


def _save_weights(state: TrainingState, path: Path) -> None:
    save_model(state.best_network, path, {"steps": str(state.step)}, dtype=torch.float16)


def _gradient_sync(objective: Any, last: bool) -> Any:
    """Average gradients over processes only in a step's last forward pass."""
    return contextlib.nullcontext() if last or not hasattr(objective, "no_sync") else objective.no_sync()
