"""Weights in the layout of the Hugging Face hub, without a network."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from vil_tracker import load_model
from vil_tracker.config import ModelConfig
from vil_tracker.errors import UserError
from vil_tracker.models.network import ViLTrackerNet, build_network

hub = pytest.importorskip("vil_tracker.hub", reason="needs the hub extra")

TINY = ModelConfig(
    name="nano", dim=32, depth=2, stem="conv", head_channels=16, template_size=32, search_size=64, modulation_interval=1
)


@pytest.fixture
def network() -> ViLTrackerNet:
    torch.manual_seed(0)
    return build_network(TINY).eval()


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens a connection fails the test."""

    def refuse(*_: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def same(a: ViLTrackerNet, b: ViLTrackerNet) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("save", "load"),
    [
        (hub.save_pretrained, hub.from_pretrained),
        (hub.save_pretrained, load_model),
        (
            lambda network, folder: hub.HubModel(network).save_pretrained(folder),
            lambda folder: hub.HubModel.from_pretrained(folder).network,
        ),
    ],
)
def test_a_folder_round_trips_without_a_network(
    network: ViLTrackerNet, tmp_path: Path, save: Callable, load: Callable
) -> None:
    network.calibration = '{"fitted": 1}'
    save(network, tmp_path / "mine")
    again = load(tmp_path / "mine")
    assert same(network, again) and not again.training
    assert again.config == TINY and again.calibration == network.calibration
    assert json.loads((tmp_path / "mine/config.json").read_text())["dim"] == 32
    card = (tmp_path / "mine/README.md").read_text()
    assert card.startswith("---\nlicense: apache-2.0") and "vil_tracker.track(" in card


@pytest.mark.usefixtures("offline")
def test_what_was_downloaded_once_needs_no_network(
    network: ViLTrackerNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache/models--somebody--tracker"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/main").write_text("0123abc")
    hub.save_pretrained(network, cache / "snapshots/0123abc")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    assert same(network, load_model("somebody/tracker"))
    assert same(network, hub.from_pretrained("somebody/tracker@main"))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["nobody/nothing", "nobody/nothing@v2"])
def test_without_network_and_cache_one_line_says_so(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        UserError, match="nobody/nothing is neither a file nor in the cache.*cannot be reached"
    ) as error:
        load_model(name)
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("offline")
def test_a_mistyped_path_does_not_ask_the_hub(tmp_path: Path) -> None:
    for name in ("runs/best.safetensors", "a/b/c", "./x/y"):
        with pytest.raises(UserError, match="no weights file"):
            load_model(name)
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        hub.from_pretrained(tmp_path)
