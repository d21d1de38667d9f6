"""What a training step costs beyond the bare forward and backward pass on fixed tensors.

    python scripts/bench_step.py configs/nano_starter.yaml [--steps 10] [--set model.search_size=128 ...]

The bare pass and the loop's whole step (sample from memory, to the device, forward, losses, backward, clipping,
optimiser, averaged weights, record) take turns, so that a busy machine disturbs both alike. On a GPU the share of the
step that it is busy is the bare pass's device time over the step's wall time.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from timm.scheduler.scheduler import Scheduler
from torch import nn

from vil_tracker.cli import guarded
from vil_tracker.config import Config, load_config, override
from vil_tracker.config.command_line import add_set_option
from vil_tracker.data.crops import to_input
from vil_tracker.data.sampling import PairBatch, PairSample, collate
from vil_tracker.errors import UserError
from vil_tracker.models.pretrained import resolve_device
from vil_tracker.runtime import Ranks, keep_freed_memory
from vil_tracker.training.loop import training_precision
from vil_tracker.training.objectives import build_objective
from vil_tracker.training.optim import build_scheduler
from vil_tracker.training.record import Record
from vil_tracker.training.state import TrainingState, build_state


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="a configuration of pairs")
    parser.add_argument("--steps", type=int, default=10, help="steps of each kind (default: 10)")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all)")
    add_set_option(parser, "replace values")
    args = parser.parse_args()
    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    config = override(load_config(args.config), args.set)
    if config.data.mode != "pairs":
        raise UserError(f"{args.config} trains on clips: give a configuration of pairs")
    config = replace(config, train=replace(config.train, init_from=""))
    device = resolve_device(args.device)
    state = build_state(config, device)
    state.network.train()
    parts = build_objective(state.network, config, state.probes), build_scheduler(state.optimizer, config.train)
    samples = [fixed_sample(config, i) for i in range(config.train.batch_size)]
    precision = training_precision(config.train.precision, device)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16")
    bare, whole = [], []
    with tempfile.TemporaryDirectory() as folder:
        record = Record(Path(folder), config, Ranks(), 0)
        for step in range(args.steps + 1):
            seconds = bare_pass(state, samples, device, autocast)
            both = loop_step(config, state, parts, samples, device, autocast, record, step)
            if step > 0:  # the first warms up
                bare.append(seconds)
                whole.append(both)
        record.write(args.steps, torch.zeros(()), state.optimizer)
        record.close()
    # Each pair of neighbours gives a ratio; their median ignores what else the machine was doing.
    ratio = statistics.median(w / b for w, b in zip(whole, bare, strict=True))
    print(f"bare forward + backward  {1e3 * statistics.median(bare):.1f} ms")
    print(f"whole step               {1e3 * statistics.median(whole):.1f} ms, {100 * (ratio - 1):+.1f} %")
    print(f"samples per second       {config.train.batch_size / statistics.median(whole):.1f}")
    print(f"busy share of the step   {1 / ratio:.2f}")
    return 0


def fixed_sample(config: Config, index: int) -> PairSample:
    """A pair of noise."""
    rng = np.random.default_rng(index)
    sides = config.model.template_size, config.model.search_size
    crops = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for side in sides]
    box = np.array([0.3, 0.3, 0.7, 0.7], np.float32)
    return PairSample(crops[0], box, crops[1], box, True)


def clock(device: torch.device) -> float:
    """The time (CPU seconds on a CPU), after the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def bare_pass(state: TrainingState, samples: list[PairSample], device: torch.device, autocast: torch.autocast) -> float:
    """Seconds of forward and backward on tensors that are on the device already, with a trivial loss."""
    batch = collate(samples)
    assert isinstance(batch, PairBatch)
    inputs = to_input(batch.templates, device), batch.template_boxes.to(device)
    search = to_input(batch.search, device)
    state.optimizer.zero_grad(set_to_none=True)
    begun = clock(device)
    with autocast:
        output = state.network(*inputs, search)
    (output.score_logits.mean() + output.offset.mean() + output.size.mean()).backward()
    return clock(device) - begun


def loop_step(
    config: Config,
    state: TrainingState,
    parts: tuple[nn.Module, Scheduler],
    samples: list[PairSample],
    device: torch.device,
    autocast: torch.autocast,
    record: Record,
    step: int,
) -> float:
    """Seconds of one step as the training loop makes it, samples being in memory."""
    objective, scheduler = parts
    begun = clock(device)
    scheduler.step_update(step)
    state.optimizer.zero_grad(set_to_none=True)
    with autocast:
        loss, terms = objective(collate(samples))
    loss.backward()
    record.add(step, loss, terms, [0], None)
    nn.utils.clip_grad_norm_(state.network.parameters(), config.train.clip_grad)
    state.optimizer.step()
    if state.ema is not None:
        state.ema.update(state.network, step)
    return clock(device) - begun


if __name__ == "__main__":
    sys.exit(guarded(main))
