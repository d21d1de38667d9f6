"""Training states on disk: torn and altered files are found out, a full disk harms nothing."""

from __future__ import annotations

import logging
import os
import random
import tempfile
from pathlib import Path

import pytest
import torch
from training_fakes import losses, source_for, tiny_config

from vil_tracker.errors import UserError
from vil_tracker.models.pretrained import load_model
from vil_tracker.training import checkpoint
from vil_tracker.training.loop import train


@pytest.fixture
def two_states(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(logging.getLogger("vil_tracker"), "propagate", True)  # the command line turns it off
    caplog.set_level(logging.WARNING, "vil_tracker")
    for step in (1, 2):
        checkpoint.save_state(tmp_path, step, {"step": step, "weights": torch.arange(1000.0) * step})
    return tmp_path


def damaged(payload: bytes) -> list[bytes]:
    """100 truncations and 100 flipped bytes."""
    chance = random.Random(0)
    cut = [payload[: chance.randrange(len(payload))] for _ in range(100)]
    flipped = []
    for _ in range(100):
        at = chance.randrange(len(payload))
        flipped.append(payload[:at] + bytes([payload[at] ^ chance.randint(1, 255)]) + payload[at + 1 :])
    return cut + flipped


def test_every_damaged_checkpoint_is_passed_over_with_one_warning(two_states: Path, caplog) -> None:
    _, newest = checkpoint.list_states(two_states)[-1]
    for content in damaged(newest.read_bytes()):
        newest.write_bytes(content)
        caplog.clear()
        state = checkpoint.load_newest_state(two_states)
        assert state is not None and state["step"] == 1 and torch.equal(state["weights"], torch.arange(1000.0))
        assert len(caplog.records) == 1 and "damaged" in caplog.text


def test_a_run_without_any_intact_checkpoint_is_not_silently_begun_again(two_states: Path) -> None:
    for _, path in checkpoint.list_states(two_states):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="remove that folder"):
        checkpoint.load_newest_state(two_states)


def test_only_the_last_two_are_kept_and_foreign_files_left_alone(two_states: Path) -> None:
    (two_states / "notes.txt").write_text("mine")
    for step in (3, 4, 5):
        checkpoint.save_state(two_states, step, {"step": step})
    assert [step for step, _ in checkpoint.list_states(two_states)] == [4, 5]
    assert (two_states / "notes.txt").exists()


def test_every_nth_checkpoint_stays_with_its_weights(tmp_path: Path) -> None:
    config = tiny_config(steps=10, keep_every=3, checkpoint_minutes=1e3, log_every=100)
    train(config, source_for(config), tmp_path, device=torch.device("cpu"), progress=False)
    assert [step for step, _ in checkpoint.list_states(tmp_path / "checkpoints")] == [3, 6, 9, 10]
    networks = [load_model(path, "cpu") for path in sorted((tmp_path / "checkpoints").glob("*.safetensors"))]
    assert len(networks) == 3
    heads = [network.head.score[-1].weight for network in networks]
    assert not torch.equal(heads[0], heads[1]) and not torch.equal(heads[1], heads[2])


def test_a_pickle_with_code_never_runs(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self):  # type: ignore[no-untyped-def]
            return os.mkdir, (str(tmp_path / "ran"),)

    checkpoint.save_state(tmp_path, 1, {"trap": Trap()})
    with pytest.raises(UserError, match="no checkpoint .* is intact"):
        checkpoint.load_newest_state(tmp_path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a device that is always full")
def test_a_full_disk_keeps_the_last_checkpoint_and_the_run_goes_on_later(tmp_path, monkeypatch) -> None:
    config = tiny_config(steps=6, checkpoint_minutes=1e-6)
    device = torch.device("cpu")
    ordinary, made = tempfile.mkstemp, []

    def full_after_two(**options: str) -> tuple[int, str]:
        handle, name = ordinary(**options)
        if "step_" in name:
            made.append(name)
            if len(made) > 2:
                os.close(handle)
                handle = os.open("/dev/full", os.O_WRONLY)
        return handle, name

    monkeypatch.setattr(tempfile, "mkstemp", full_after_two)
    with pytest.raises(UserError, match="the disk is full") as fault:
        train(config, source_for(config), tmp_path / "run", device=device, progress=False)
    assert "\n" not in str(fault.value)
    states = checkpoint.list_states(tmp_path / "run" / "checkpoints")
    assert [step for step, _ in states] == [1, 2]
    assert len(list((tmp_path / "run" / "checkpoints").iterdir())) == 2  # nothing half-written beside them

    monkeypatch.setattr(tempfile, "mkstemp", ordinary)
    train(config, source_for(config), tmp_path / "run", device=device, progress=False)
    train(config, source_for(config), tmp_path / "whole", device=device, progress=False)
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")
