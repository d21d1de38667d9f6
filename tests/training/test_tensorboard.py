"""TensorBoard's files hold what the log holds, and a run without TensorBoard says how to get it."""

from __future__ import annotations

import logging
import signal
import sys
from pathlib import Path

import pytest
import torch
from training_fakes import losses, source_for, start, tiny_config

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
