"""Several processes: the same losses as one, and a run that outlives a process."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from training_fakes import free_port, losses, measure_validation, start, tiny_config

from vil_tracker.training.distributed import TIMEOUT, join
from vil_tracker.training.record import read_log
from vil_tracker.training.validation import shares

STEPS = 20
RESTARTED = """
import os, signal, time
from pathlib import Path
import torch
from training_fakes import source_for, tiny_config
from vil_tracker.training.loop import train

class Deadly:
    skipped = None
    made = 0
    def __init__(self, source, mark):
        self.source, self.mark = source, mark
    def sample(self, rng, difficulty):
        self.made += 1
        if os.environ["RANK"] == "1" and self.made == 30 and not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.source.sample(rng, difficulty)

torch.set_num_threads(1)
output = Path({output!r})
first = output.parent / "first_back"
if os.environ["TORCHELASTIC_RESTART_COUNT"] == "1":
    if os.environ["RANK"] == "1":
        first.touch()
    while not first.exists():  # rank 1 is back first, and must not take the addresses of the dead for those of rank 0
        time.sleep(0.05)
    time.sleep(1.5 * (os.environ["RANK"] == "0"))
config = tiny_config(steps={steps}, batch_size=4)
train(config, Deadly(source_for(config), output.parent / "killed"), output, device=torch.device("cpu"), progress=False)
"""


def torchrun_variables(rank: int, world: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


@pytest.mark.parametrize(
    "mode,truth_share,compared",
    [
        ("pairs", 0.5, STEPS),
        ("clips", 1.0, STEPS),
        # Crops centred on predictions feed a last bit back, and Adam its own steps: after a few it is no last bit.
        ("clips", 0.5, 3),
    ],
)
def test_two_processes_give_the_losses_of_one(tmp_path: Path, mode: str, truth_share: float, compared: int) -> None:
    config = tiny_config(mode, steps=STEPS, accumulate=2, truth_share=truth_share)
    port = free_port()
    processes = [start(config, tmp_path / "two", torchrun_variables(rank, 2, port)) for rank in range(2)]
    processes.append(start(config, tmp_path / "one"))
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == STEPS
    print(f"largest difference {max(abs(one[step] - two[step]) for step in one):.1e}")
    alike = [step for step in one if step <= compared]
    assert [two[step] for step in alike] == pytest.approx([one[step] for step in alike], abs=1e-5)
    assert max(one.values()) - min(one.values()) > 0.1  # something was learned, so gradients were shared


def test_a_run_finishes_although_a_process_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    output = tmp_path / "two"
    script.write_text(RESTARTED.format(output=str(output), steps=STEPS))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "1", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "killed").exists()
    alone = tmp_path / "one"
    process = start(tiny_config(steps=STEPS, batch_size=4), alone)
    process.join(300)
    assert losses(output) == pytest.approx(losses(alone), abs=1e-5) and len(losses(output)) == STEPS
    assert read_log(output / "log.jsonl")[0].keys() == {"config"}  # one log, not two


def test_validation_gives_the_same_scores_on_one_two_and_four_processes(tmp_path: Path) -> None:
    """Bit for bit in every process of a run; between runs, as closely as float32 answers of two processes agree.

    A sample left out or measured twice moves the overlap by some 1e-3.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["vil_tracker.training.loop", "training_fakes"])
    scores: list[dict[str, float]] = []
    for world in (1, 2, 4):
        config = tiny_config(validation_pairs=70)  # five batches, the last one smaller
        folder, port = tmp_path / str(world), free_port()
        folder.mkdir()
        processes = [
            context.Process(target=measure_validation, args=(config, rank, world, port, folder))
            for rank in range(world)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(120)
        own, *others = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]
        assert others == [own] * (world - 1)
        scores.append(own)
    assert scores[1:] == [pytest.approx(scores[0], abs=1e-6)] * 2
    assert 0 < scores[0]["iou"] < 1 and 0 < scores[0]["auc"] <= 1
    measure_validation(tiny_config(validation_pairs=70, workers=2), 0, 1, 0, tmp_path)  # loader workers change nothing
    assert json.loads((tmp_path / "0.json").read_text()) == pytest.approx(scores[0], abs=1e-6)


def test_sequences_are_shared_out_by_their_length() -> None:
    lengths = [100, 10, 90, 20, 30, 50]
    parts = shares(lengths, 2)
    assert sorted(number for part in parts for number in part) == list(range(6))
    loads = [sum(lengths[number] for number in part) for part in parts]
    assert max(loads) - min(loads) <= 10
    assert shares([5], 4) == [[0], [], [], []]


def test_a_process_group_has_a_timeout_of_its_own(monkeypatch) -> None:
    for key, value in torchrun_variables(0, 1, free_port()).items():
        monkeypatch.setenv(key, value)
    join(torch.device("cpu"))
    try:
        assert dist.distributed_c10d._get_default_group()._get_backend(torch.device("cpu")).options._timeout == TIMEOUT
    finally:
        dist.destroy_process_group()


def test_a_network_without_a_film_layer_trains(tmp_path: Path) -> None:
    """No modulation fits into two sublayers at an interval of six, so the temporal part learns nothing."""
    config = tiny_config("clips", steps=3, model={"modulation_interval": 6})
    port = free_port()
    processes = [start(config, tmp_path, torchrun_variables(rank, 2, port)) for rank in range(2)]
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0] and len(losses(tmp_path)) == 3


def test_without_torchrun_a_process_is_alone(monkeypatch) -> None:
    monkeypatch.delenv("RANK", raising=False)
    ranks, _ = join(torch.device("cpu"))
    assert (ranks.rank, ranks.world, ranks.main) == (0, 1, True)
