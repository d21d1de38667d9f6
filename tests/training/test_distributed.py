"""Several processes: the same losses as one, and a run that outlives a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from training_fakes import free_port, losses, start, tiny_config

from vil_tracker.training.distributed import join
from vil_tracker.training.record import read_log

STEPS = 20
RESTARTED = """
import os, signal
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


@pytest.mark.parametrize("mode", ["pairs", "clips"])
def test_two_processes_give_the_losses_of_one(tmp_path: Path, mode: str) -> None:
    config = tiny_config(mode, steps=STEPS, accumulate=2)
    port = free_port()
    processes = [start(config, tmp_path / "two", torchrun_variables(rank, 2, port)) for rank in range(2)]
    processes.append(start(config, tmp_path / "one"))
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert len(one) == len(two) == STEPS
    # A clip feeds its own answers back, and Adam its own steps: after a few of them a last bit is no last bit.
    alike = [step for step in one if mode == "pairs" or step <= 3]
    assert [two[step] for step in alike] == pytest.approx([one[step] for step in alike], abs=1e-5)
    assert max(one.values()) - min(one.values()) > 0.1  # something was learned, so gradients were shared


@pytest.mark.soak  # gloo may need several restarts to meet again on a busy machine, minutes each
def test_a_run_finishes_although_a_process_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    output = tmp_path / "two"
    script.write_text(RESTARTED.format(output=str(output), steps=STEPS))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "8"]
    command += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "killed").exists()
    alone = tmp_path / "one"
    process = start(tiny_config(steps=STEPS, batch_size=4), alone)
    process.join(300)
    assert losses(output) == pytest.approx(losses(alone), abs=1e-5) and len(losses(output)) == STEPS
    assert read_log(output / "log.jsonl")[0].keys() == {"config"}  # one log, not two


def test_without_torchrun_a_process_is_alone(monkeypatch) -> None:
    import torch

    monkeypatch.delenv("RANK", raising=False)
    ranks = join(torch.device("cpu"))
    assert (ranks.rank, ranks.world, ranks.main) == (0, 1, True)
