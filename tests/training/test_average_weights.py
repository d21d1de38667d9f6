"""The script that averages weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vil_tracker.config import ModelConfig
from vil_tracker.models.network import build_network
from vil_tracker.models.pretrained import load_model, save_model

SCRIPT = Path(__file__).parents[2] / "scripts" / "average_weights.py"


def write_weights(path: Path, seed: int, depth: int = 2) -> None:
    torch.manual_seed(seed)
    save_model(build_network(ModelConfig(name="test", dim=32, depth=depth, head_channels=16)), path)


@pytest.mark.parametrize("depth", [2, 4], ids=["same", "other"])
def test_mean_of_two_files(tmp_path: Path, depth: int) -> None:
    """The mean of every number; networks of another size are refused and nothing is written."""
    first, second, output = (tmp_path / f"{name}.safetensors" for name in ("first", "second", "mean"))
    write_weights(first, 0)
    write_weights(second, 1, depth)
    command = [sys.executable, str(SCRIPT), str(first), str(second), "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    if depth != 2:
        assert done.returncode == 2 and "another network" in done.stderr and not output.exists()
        return
    assert done.returncode == 0, done.stderr
    states = [load_model(path, device="cpu").state_dict() for path in (first, second, output)]
    for name, found in states[2].items():
        torch.testing.assert_close(found, (states[0][name] + states[1][name]) / 2, rtol=1e-3, atol=1e-4)


def test_one_file_as_int8(tmp_path: Path) -> None:
    """The same numbers, but for rounding, in less space."""
    first, output = tmp_path / "first.safetensors", tmp_path / "small.safetensors"
    torch.manual_seed(0)
    save_model(build_network(ModelConfig(name="test", dim=128, depth=4, head_channels=16)), first, dtype=torch.float16)
    command = [sys.executable, str(SCRIPT), str(first), "--dtype", "int8", "--output", str(output)]
    subprocess.run(command, check=True)
    assert output.stat().st_size < 0.75 * first.stat().st_size
    before, after = (load_model(path, device="cpu").state_dict() for path in (first, output))
    for name, value in before.items():
        assert (after[name] - value).norm() <= 0.01 * value.norm(), name
