"""Which data a run may validate on: always a named split, never what it trains on."""

from __future__ import annotations

import logging
from pathlib import Path

import data_trees as trees
import pytest
from training_fakes import tiny_config

from vil_tracker.cli import main
from vil_tracker.data.dataset import open_split
from vil_tracker.data.sources import build_source
from vil_tracker.errors import UserError
from vil_tracker.training.validation import build_validation


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("airplane-2", "airplane-1", "bear-1", "bear-2"):  # of these, airplane-1 and bear-2 are for testing
        trees.lasot(tmp_path / "data" / "LaSOT", name)
    for name in ("GOT-10k_Train_000001", "GOT-10k_Train_000002", "GOT-10k_Val_000001"):
        trees.got10k(tmp_path / "data" / "GOT-10k", name)
    for name in ("a", "b", "c"):
        trees.otb(tmp_path / "data" / "mine", name)
        trees.video(tmp_path / "data" / "videos" / f"{name}.avi")
        trees.text(tmp_path / "data" / "videos" / f"{name}.txt", trees.boxes(5))
    trees.text(tmp_path / "data" / "videos" / "validation.txt", "b\n")
    return tmp_path / "data"


def names(text: str, data: Path) -> list[str]:
    return open_split(text, data_root=data, cache_dir=data.parent / "cache").names


def test_splits_are_named(data: Path) -> None:
    assert names("lasot:test", data) == ["airplane-1", "bear-2"]
    assert names("got10k:val", data) == ["GOT-10k_Val_000001"]
    assert names("folder:mine", data) == ["a", "b", "c"] and names("folder:videos:validation", data) == ["b"]
    assert names("folder:LaSOT:test", data) == ["airplane-1", "bear-2"]


@pytest.mark.parametrize("text", ["lasot", "got10k", "folder:LaSOT", "folder:GOT-10k", "folder:videos", "LaSOT"])
def test_a_data_set_with_several_splits_needs_one(data: Path, text: str) -> None:
    with pytest.raises(UserError, match="name one of its splits, .*:(test|validation)"):
        names(text, data)


def validate(data: Path, wanted: str, **source: str):
    config = tiny_config(data={"sources": (), "max_gap": 3}, validation_sequences=wanted)
    from vil_tracker.config import SourceConfig

    cache = data.parent / "cache"
    training = build_source(config, data, cache, sources=[SourceConfig(**source)])
    return build_validation(config, data, training, cache)


def test_what_is_trained_on_is_refused_unless_asked_for(data: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(logging.getLogger("vil_tracker"), "propagate", True)
    caplog.set_level(logging.INFO, "vil_tracker")
    assert len(validate(data, "lasot:test", name="lasot").sequences) == 2
    assert f"validation: 2 sequences of lasot:test in {data / 'LaSOT'}" in caplog.text
    with pytest.raises(UserError, match="lasot:train is a training split: name another split, or write lasot:train!"):
        validate(data, "lasot:train", name="got10k")
    assert len(validate(data, "lasot:train!", name="got10k").sequences) == 2
    with pytest.raises(UserError, match="the run trains on 3 sequences of folder:mine, such as a"):
        validate(data, "folder:mine", name="folder:mine")
    assert len(validate(data, "folder:videos:validation", name="folder:videos").sequences) == 1
    with pytest.raises(UserError, match="the run trains on 2 sequences of folder:videos:all"):
        validate(data, "folder:videos:all", name="folder:videos")


def test_train_and_doctor_name_the_cache_alike(capsys) -> None:
    for command in ("train", "doctor"):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        assert "--cache-dir" in capsys.readouterr().out
