"""Tiny networks, sources that need no files, and runs in processes that can be killed."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import socket
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from vil_tracker.config import Config, DataConfig, ModelConfig, TrainConfig
from vil_tracker.data.sampling import ClipSample, PairSample

TINY = ModelConfig(
    name="test",
    dim=32,
    depth=2,
    stem="conv",
    template_size=32,
    search_size=64,
    modulation_interval=2,
    head_channels=16,
)


def tiny_config(mode: str = "pairs", *, model: dict | None = None, data: dict | None = None, **train: object) -> Config:
    """A run of a few seconds: 32 channels, 2 sublayers, crops of 32 and 64 pixels."""
    settings = {
        "steps": 12,
        "batch_size": 4,
        "lr": 3e-3,
        "warmup_steps": 2,
        "ema_decay": 0.9,
        "precision": "float32",
        "workers": 0,
        "log_every": 1,
        "checkpoint_minutes": 1e-6,
        "validation_pairs": 0,
        **train,
    }
    return Config(
        model=dataclasses.replace(TINY, **(model or {})),
        data=dataclasses.replace(DataConfig(mode=mode, clip_length=3, epoch_samples=20), **(data or {})),  # type: ignore[arg-type]
        train=TrainConfig(**settings),  # type: ignore[arg-type]
    )


def scene(rng: np.random.Generator, size: int, box: np.ndarray) -> np.ndarray:
    """A noisy (size, size, 3) picture with a bright red box (x1 y1 x2 y2 in units of the picture)."""
    image = rng.integers(0, 120, (size, size, 3), dtype=np.uint8)
    x1, y1, x2, y2 = (int(round(float(v) * size)) for v in box)
    image[max(y1, 0) : max(y2, 1), max(x1, 0) : max(x2, 1)] = (230, 60, 40)
    return image


@dataclasses.dataclass(frozen=True)
class NoisePairs:
    """Pairs of noise with a red box."""

    model: ModelConfig = TINY
    skipped = None

    def sample(self, rng: np.random.Generator, difficulty: float) -> PairSample:
        template_box = np.array([0.25, 0.25, 0.75, 0.75], np.float32)
        x, y = rng.uniform(0.1, 0.6, 2)
        box = np.array([x, y, x + 0.3, y + 0.3], np.float32)
        template = scene(rng, self.model.template_size, template_box)
        return PairSample(template, template_box, scene(rng, self.model.search_size, box), box, True)


@dataclasses.dataclass(frozen=True)
class NoiseClips:
    """Clips of noise in which a red box moves; ``free`` frames after the first are centred on the prediction."""

    model: ModelConfig = TINY
    length: int = 3
    side: int = 96
    free: bool = True
    skipped = None

    def sample(self, rng: np.random.Generator, difficulty: float) -> ClipSample:
        start, move = rng.uniform(25, 40, 2), rng.uniform(-3, 3, 2)
        boxes = np.array([[*(start + k * move), 24, 24] for k in range(self.length)], np.float32)
        frames = [scene(rng, self.side, np.array([x, y, x + w, y + h]) / self.side) for x, y, w, h in boxes]
        template_box = np.array([0.25, 0.25, 0.75, 0.75], np.float32)
        use_truth = np.array([k == 0 or not self.free for k in range(self.length)])
        present = np.ones(self.length, bool)
        template = scene(rng, self.model.template_size, template_box)
        return ClipSample(template, template_box, np.stack(frames), boxes, present, boxes + 1, use_truth)


def source_for(config: Config) -> NoisePairs | NoiseClips:
    """A source of the configuration's mode and sizes."""
    if config.data.mode == "clips":
        return NoiseClips(config.model, config.data.clip_length, free=config.train.truth_share < 1)
    return NoisePairs(config.model)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_training(config: Config, output: Path, environment: dict[str, str], kill_in_checkpoint: int) -> None:
    """What :func:`start` runs in a process of its own; exit status 0 if the run finished."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    from vil_tracker.training import checkpoint, loop

    loop.plot_curves = lambda log_path, path: None  # takes longer than the run
    if kill_in_checkpoint:
        write, written = checkpoint.atomic_write, []

        def interrupted(path: Path):  # type: ignore[no-untyped-def]
            written.append(path)
            if len(written) == kill_in_checkpoint:
                half = path.parent / f".{path.name}.tmp"  # as far as a write gets before the kill
                half.parent.mkdir(parents=True, exist_ok=True)
                half.write_bytes(b"half a checkpoint")
                os.kill(os.getpid(), signal.SIGKILL)
            return write(path)

        checkpoint.atomic_write = interrupted
    loop.train(config, source_for(config), output, device=torch.device("cpu"), progress=False)


def start(
    config: Config, output: Path, environment: dict[str, str] | None = None, kill_in_checkpoint: int = 0
) -> multiprocessing.process.BaseProcess:
    """Start a run in another process, which already has the libraries loaded.

    Args:
        config: of the run; its source is :func:`source_for` it.
        output: folder of the run.
        environment: variables to set there, such as torchrun's.
        kill_in_checkpoint: the process kills itself in the middle of writing so manieth checkpoint; 0 never.
    """
    context = multiprocessing.get_context("forkserver")
    # The first step of an optimiser imports torch._dynamo, which takes longer than the run; so does TensorBoard.
    modules = ["vil_tracker.training.loop", "torch._dynamo", "torch.utils.tensorboard", "training_fakes"]
    context.set_forkserver_preload(modules)
    process = context.Process(target=run_training, args=(config, output, environment or {}, kill_in_checkpoint))
    process.start()
    return process


def losses(output: Path) -> dict[int, float]:
    """Loss of each step, from a run's log."""
    from vil_tracker.training.record import read_log

    return {line["step"]: line["loss"] for line in read_log(output / "log.jsonl") if "loss" in line}


def same(a: object, b: object) -> bool:
    """Whether two states, nested containers of tensors and numbers, are equal bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, Sequence) and not isinstance(a, str):
        return isinstance(b, Sequence) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def measure_validation(config: Config, rank: int, world: int, port: int, output: Path) -> None:
    """Write the scores that each of ``world`` processes gets of one validation to ``output``/<rank>.json."""
    import json

    from vil_tracker.data.sequence import make_sequence
    from vil_tracker.models.network import build_network
    from vil_tracker.runtime import leave_process_group
    from vil_tracker.training.distributed import join
    from vil_tracker.training.validation import Validation

    torch.set_num_threads(1)
    if world > 1:
        os.environ.update(RANK=str(rank), WORLD_SIZE=str(world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    ranks, _ = join(torch.device("cpu"))
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    sequences = []
    for number, length in enumerate((3, 7, 4, 5, 2)):
        boxes = np.array([[10 + 2 * k, 12, 20, 16] for k in range(length)], float)
        frames = rng.integers(0, 255, (length, 48, 64, 3), np.uint8)
        sequences.append(make_sequence(str(number), "made", frames, boxes))
    validation = Validation(config, source_for(config), tuple(sequences))
    scores = validation.measure(build_network(config.model), ranks)
    leave_process_group()
    (output / f"{rank}.json").write_text(json.dumps(scores))
