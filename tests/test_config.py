"""Configurations: mistakes are named, and every file in configs/ is built and trained for one step."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from vil_tracker.config import MODEL_SIZES, Config, config_from_dict, config_to_dict, dump_config, load_config, override
from vil_tracker.data.sampling import collate
from vil_tracker.data.sources import READERS, SYNTHETIC_CLIPS, SYNTHETIC_PAIRS
from vil_tracker.errors import UserError
from vil_tracker.training.objectives import build_objective
from vil_tracker.training.state import build_state

sys.path.append(str(Path(__file__).parent / "training"))
from training_fakes import source_for  # noqa: E402

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_says_how_it_is_run_and_names_known_data(path: Path) -> None:
    header = "".join(line for line in path.read_text().splitlines(True) if line.startswith("#"))
    for word in (f"configs/{path.name}", "--data-root", "--output", "Hardware:"):
        assert word in header, f"{path.name} lacks {word}"
    assert "not run" in header or "Time:" in header
    config = load_config(path)
    known = {SYNTHETIC_CLIPS, SYNTHETIC_PAIRS, *READERS}
    assert {source.name for source in (*config.data.sources, *config.data.validation)} <= known
    assert config.data.sources
    for source in (*config.data.sources, *config.data.validation):
        if source.name in READERS:
            assert source.split in READERS[source.name].splits


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_configuration_trains_for_one_step(path: Path) -> None:
    small = ["train.batch_size=2", "train.accumulate=1", 'train.init_from=""', "data.clip_length=2"]
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


def test_sizes_are_the_documented_ones() -> None:
    assert {name: (c.dim, c.depth) for name, c in MODEL_SIZES.items()} == {
        "nano": (192, 12),
        "tiny": (192, 24),
        "small": (384, 24),
        "base": (768, 24),
    }
    assert config_from_dict({"model": {"name": "nano", "search_size": 192}}).model == dataclasses.replace(
        MODEL_SIZES["nano"], search_size=192
    )


def test_there_and_back_again(tmp_path: Path) -> None:
    config = override(Config(), ["train.lr=1e-5", "data.sources=[{name: lasot, weight: 2}]", "model.temporal=false"])
    assert config.train.lr == 1e-5 and config.data.sources[0].weight == 2.0 and not config.model.temporal
    assert config_from_dict(config_to_dict(config)) == config
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(config))
    assert load_config(path) == config


@pytest.mark.parametrize(
    "text,message",
    [
        ("trian: {}", "unknown key trian: did you mean train?"),
        ("train: {batchsize: 3}", "unknown key train.batchsize: did you mean train.batch_size?"),
        ("data: {sources: [{nam: lasot}]}", "did you mean data.sources[0].name?"),
        ("train: {steps: many}", "train.steps is 'many', expected int"),
        ("train: {steps: true}", "train.steps is True"),
        ("train: {lr: .nan}", "expected a finite number"),
        ("train: {steps: 0}", "at least 1"),
        ("train: {batch_size: 6, accumulate: 4}", "a multiple of train.accumulate"),
        ("data: {mode: clip}", "expected one of 'pairs', 'clips'"),
        ("data: {grey: 1.5}", r"in [0, 1]"),
        ("data: {sources: lasot}", "data.sources must be a list"),
        ("data: {sources: [{weight: 1}]}", "the name of a data set"),
        ("model: {dim: 50}", "a multiple of 32"),
        ("model: {search_size: 100}", "a multiple of 16"),
        ("model: [1]", "must be a mapping"),
        ("- 1", "expected sections"),
        ("a: [", "is not valid YAML"),
    ],
)
def test_a_mistake_is_named_with_the_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(UserError) as fault:
        load_config(path)
    assert "mine.yaml" in str(fault.value) and message in str(fault.value)


@pytest.mark.parametrize(
    "assignment,message",
    [
        ("steps=3", "not of the form"),
        ("train.steps", "not of the form"),
        ("tarin.steps=3", "did you mean train"),
        ("train.step=3", "did you mean train.steps"),
        ("train.steps=[", "not valid YAML"),
    ],
)
def test_a_mistake_on_the_command_line_is_named(assignment: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        override(Config(), [assignment])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read config"):
        load_config(tmp_path / "none.yaml")
