"""Every file in configs/ says how it is run, is built, and is trained for one step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from training_fakes import source_for

from vil_tracker.config import load_config, override
from vil_tracker.data.sampling import collate
from vil_tracker.data.sources import READERS, SYNTHETIC_CLIPS, SYNTHETIC_PAIRS
from vil_tracker.training.objectives import build_objective
from vil_tracker.training.state import build_state

CONFIGS = sorted((Path(__file__).resolve().parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_says_how_it_is_run_and_names_known_data(path: Path) -> None:
    header = "".join(line for line in path.read_text().splitlines(True) if line.startswith("#"))
    for word in (f"configs/{path.name}", "--data-root", "--output", "Hardware:"):
        assert word in header, f"{path.name} lacks {word}"
    assert "not run" in header or "Time:" in header
    config = load_config(path)
    known = {SYNTHETIC_CLIPS, SYNTHETIC_PAIRS, *READERS}
    names = {source.name for source in (*config.data.sources, *config.data.validation)}
    assert {name for name in names if not name.startswith("folder:")} <= known
    assert config.data.sources
    for source in (*config.data.sources, *config.data.validation):
        if source.name in READERS:
            assert source.split in READERS[source.name].splits


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_trains_for_one_step(path: Path) -> None:
    small = ["train.batch_size=2", "train.accumulate=1", "train.compile=false", "data.clip_length=2"]
    small += ['train.init_from=""', 'train.grow_from=""']
    config = override(load_config(path), small)
    state = build_state(config, torch.device("cpu"))
    batch = collate([source_for(config).sample(np.random.default_rng(i), 1.0) for i in range(2)])
    with torch.autocast("cpu", torch.bfloat16, enabled=config.train.precision == "bfloat16"):
        loss, _ = build_objective(state.network, config, state.probes)(batch)
    loss.backward()
    trained = [p for group in state.optimizer.param_groups for p in group["params"]]
    assert torch.isfinite(loss) and all(p.grad is not None and p.grad.isfinite().all() for p in trained)
    everything = [*state.network.parameters(), *(state.probes.parameters() if state.probes else ())]
    if config.data.mode == "clips":
        assert len(trained) == len(everything)
    else:  # a pair has no frame before it
        assert len(trained) == len(everything) - len(list(state.network.temporal.parameters()))
    state.optimizer.step()
    assert all(p.isfinite().all() for p in everything)
