"""A run that is killed and resumed ends exactly as one that was never stopped."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest
from training_fakes import losses, same, start, tiny_config

from vil_tracker.config import Config
from vil_tracker.training.checkpoint import list_states, load_newest_state

DROP_PATH = {"drop_path": 0.2}  # something random inside a step


def finish(config: Config, output: Path) -> dict:
    """Run to the end; returns the last training state."""
    process = start(config, output)
    process.join(300)
    assert process.exitcode == 0
    state = load_newest_state(output / "checkpoints")
    assert state is not None and state["step"] == config.train.steps
    return state


def lines(output: Path) -> int:
    log = output / "log.jsonl"
    return log.read_text().count("\n") if log.exists() else 0


def kill_somewhere(config: Config, output: Path, moment: random.Random) -> int:
    """Start, wait for some step, and kill at a random moment of it; returns the number of logged lines."""
    begun = lines(output)
    process = start(config, output)
    wanted = begun + moment.randint(1, 3)
    deadline = time.monotonic() + 120
    while lines(output) < wanted and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(moment.uniform(0, 0.05))
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    return lines(output)


def kill_in_checkpoint(config: Config, output: Path, number: int) -> None:
    process = start(config, output, kill_in_checkpoint=number)
    process.join(600)
    assert process.exitcode in (-signal.SIGKILL, 0)


@pytest.mark.parametrize("mode,workers", [("pairs", 0), ("clips", 2)])
def test_killed_runs_end_bit_for_bit_as_uninterrupted_ones(tmp_path: Path, mode: str, workers: int) -> None:
    config = tiny_config(mode, model=DROP_PATH, workers=workers, accumulate=2)
    whole = finish(config, tmp_path / "whole")
    output = tmp_path / "killed"
    kill_somewhere(config, output, random.Random(mode))
    kill_in_checkpoint(config, output, 3)
    state = finish(config, output)
    assert same(state, whole)
    assert losses(output) == losses(tmp_path / "whole") and len(losses(output)) == config.train.steps


@pytest.mark.soak
@pytest.mark.parametrize("mode,workers", [("pairs", 0), ("pairs", 2), ("clips", 0), ("clips", 2)])
def test_fifty_kills(tmp_path: Path, mode: str, workers: int) -> None:
    """13 kills in each of the four settings, 4 of them in the middle of a checkpoint."""
    config = tiny_config(mode, model=DROP_PATH, workers=workers, steps=60)
    whole = finish(config, tmp_path / "whole")
    output, moment = tmp_path / "killed", random.Random(f"{mode}{workers}")
    for number in range(13):
        if number % 3 == 2:
            kill_in_checkpoint(config, output, moment.randint(1, 3))
        else:
            kill_somewhere(config, output, moment)
    print(f"{mode}, {workers} workers: 13 kills, the last at step {list_states(output / 'checkpoints')[-1][0]}")
    assert same(finish(config, output), whole)
    assert losses(output) == losses(tmp_path / "whole")
