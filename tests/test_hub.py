"""Weights in the layout of the Hugging Face hub, without a network."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from vil_tracker import load_model
from vil_tracker.config import ModelConfig
from vil_tracker.errors import UserError
from vil_tracker.models.network import ViLTrackerNet, build_network
from vil_tracker.models.pretrained import save_model, shipped_weights

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
    assert "license" not in card.split("---")[1] and "vil_tracker.track(" in card  # a user's weights: none is invented


def test_the_pushed_card_is_that_of_the_weights(tmp_path: Path) -> None:
    """The shipped weights are for research only; a card that said Apache-2.0 would promise what nobody may."""
    shipped = load_model("nano", "cpu")
    hub.save_pretrained(shipped, tmp_path / "first")
    card = (tmp_path / "first/README.md").read_text()
    _, front, text = card.split("---\n", 2)
    assert "license: other\n" in front and "license_link: README.md" in front and "apache" not in front
    assert text.strip() == shipped_weights()["nano"].with_suffix(".md").read_text().strip()
    again = hub.from_pretrained(tmp_path / "first")  # and it stays with them from folder to folder
    hub.save_pretrained(again, tmp_path / "second")
    assert (tmp_path / "second/README.md").read_text() == card


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


@pytest.fixture
def stand_in() -> Iterator[tuple[str, list[str]]]:
    """A server in the place of the hub, which knows no repository, and what it was asked; silent for ``silent/…``."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            if self.path.startswith("/silent/"):
                time.sleep(0.5)
                return
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
        server.shutdown()


def test_a_hub_that_does_not_answer_is_asked_once(
    stand_in: tuple[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "TIMEOUT", 0.1)
    address, asked = stand_in
    with pytest.raises(UserError, match="check the path if it is a file's, or the name and the network"):
        hub.fetch_weights("silent/nothing", endpoint=address, cache_dir=tmp_path)
    assert len(asked) == 1


def test_a_repository_that_is_not_there_is_told_with_both_readings(
    stand_in: tuple[str, list[str]], tmp_path: Path
) -> None:
    address, asked = stand_in
    with pytest.raises(UserError, match="^nobody/nothing is no file, and .*check the path if .* or the name") as error:
        hub.fetch_weights("nobody/nothing", endpoint=address, cache_dir=tmp_path)
    assert asked and "\n" not in str(error.value)


@pytest.mark.usefixtures("offline")
def test_a_mistyped_path_does_not_ask_the_hub(
    network: ViLTrackerNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs/best.safetensors", "runs/last.pt", "a/b/c", "./x/y"):
        with pytest.raises(UserError, match="no weights file"):
            load_model(name)
    with pytest.raises(UserError, match=r"holds no model\.safetensors"):
        hub.from_pretrained(tmp_path)
    hub.save_pretrained(network, "runs/first")
    with pytest.raises(UserError, match=r"no weights file runs/fist: did you mean runs/first\?"):
        load_model("runs/fist")
    with pytest.raises(UserError, match="no weights file runs/other: check .* runs/other@main is that repository"):
        load_model("runs/other")
    (tmp_path / "runs/empty").mkdir()
    with pytest.raises(UserError, match=r"the folder runs/empty holds no model\.safetensors"):
        load_model("runs/empty")
    save_model(network, "runs/best.safetensors")
    with pytest.raises(UserError, match=r"no weights file runs/best: did you mean runs/best\.safetensors\?"):
        load_model("runs/best")
    assert same(network, load_model("runs/first")) and same(network, load_model("runs/best.safetensors"))


@pytest.mark.usefixtures("offline")
def test_a_revision_names_the_hub_even_beside_a_folder_of_the_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "somebody").mkdir()
    with pytest.raises(UserError, match="Hugging Face hub cannot be reached"):
        load_model("somebody/tracker@main")
