"""TensorBoard and Weights & Biases get what the log holds, and a run without them says how to get them."""

from __future__ import annotations

import logging
import signal
import sys
import types
from pathlib import Path

import pytest
import torch
from training_fakes import losses, source_for, start, tiny_config

from vil_tracker.errors import UserError
from vil_tracker.training.loop import train


def shown(folder: Path, tag: str) -> dict[int, float]:
    """What TensorBoard itself reads from a folder."""
    module = "tensorboard.backend.event_processing.event_accumulator"
    accumulator = pytest.importorskip(module, reason="needs the tensorboard extra").EventAccumulator(str(folder))
    accumulator.Reload()
    events = accumulator.Scalars(tag)
    assert len(events) == len({event.step for event in events})  # no step twice
    return {event.step: event.value for event in events}


def test_a_killed_and_resumed_run_is_shown_whole(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the tensorboard extra")
    config = tiny_config(steps=12)
    killed = start(config, tmp_path, kill_in_checkpoint=5)
    killed.join(120)
    assert killed.exitcode == -signal.SIGKILL
    resumed = start(config, tmp_path)
    resumed.join(120)
    assert resumed.exitcode == 0
    assert shown(tmp_path / "tensorboard", "loss") == pytest.approx(losses(tmp_path))
    assert len(losses(tmp_path)) == 12


def test_without_tensorboard_the_log_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    config = tiny_config(steps=2)
    with caplog.at_level(logging.INFO, "vil_tracker"):
        train(config, source_for(config), tmp_path, device=torch.device("cpu"), progress=False)
    assert "pip install 'vil-tracker[tensorboard]'" in caplog.text
    assert len(losses(tmp_path)) == 2 and not (tmp_path / "tensorboard").exists()


class Wandb(types.ModuleType):
    """Stands in for the package: notes how runs are begun and what they are handed."""

    Error = RuntimeError

    def __init__(self) -> None:
        super().__init__("wandb")
        self.begun: list[dict] = []
        self.lines: list[dict] = []
        self.finished = 0

    def init(self, **how: object) -> Wandb:
        self.begun.append(how)
        return self

    def log(self, numbers: dict, step: int) -> None:
        self.lines.append({"step": step, **numbers})

    def finish(self) -> None:
        self.finished += 1


def test_weights_and_biases_gets_the_log_of_one_run_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = Wandb()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    for steps in (2, 4):
        config = tiny_config(steps=steps, wandb="trackers")
        train(config, source_for(config), tmp_path, device=torch.device("cpu"), progress=False)
    first, second = fake.begun
    assert first["id"] == second["id"] and first["resume"] == "allow" and first["project"] == "trackers"
    assert first["config"]["train"]["steps"] == 2 and fake.finished == 2
    assert {line["step"]: line["loss"] for line in fake.lines} == losses(tmp_path)


def test_without_weights_and_biases_a_run_that_asks_for_it_names_the_extra(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    config = tiny_config(steps=2, wandb="trackers")
    with pytest.raises(UserError, match=r"pip install 'vil-tracker\[wandb\]'"):
        train(config, source_for(config), tmp_path, device=torch.device("cpu"), progress=False)
