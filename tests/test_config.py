"""Configurations: there and back again, and every mistake named."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from vil_tracker.config import MODEL_SIZES, Config, config_from_dict, config_to_dict, dump_config, load_config, override
from vil_tracker.errors import UserError


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


def test_an_empty_value_is_an_empty_text() -> None:
    """``--set train.init_from=''`` reaches the program without its quotes."""
    start = override(Config(), ["train.init_from=somewhere"])
    assert override(start, ["train.init_from="]).train.init_from == ""
    with pytest.raises(UserError, match="train.steps is '', expected int"):
        override(start, ["train.steps="])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot read config"):
        load_config(tmp_path / "none.yaml")
