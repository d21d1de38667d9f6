"""Training steps and a session's update on CUDA tensors without a GPU: tensors of shapes and devices, without values.

What computes with a tensor of another device fails, and so does what reads a value inside a step (``.item()``, a
branch). Copies between host and device are counted.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from training_fakes import source_for, tiny_config

from vil_tracker.data.sampling import collate
from vil_tracker.models import inference
from vil_tracker.models.network import build_network
from vil_tracker.tracking import search
from vil_tracker.tracking.tracker import Tracker
from vil_tracker.training import objectives
from vil_tracker.training.deep_supervision import ForegroundProbes
from vil_tracker.training.objectives import build_objective

DEVICE = torch.device("cuda")


class Copies(TorchDispatchMode):
    """Notes the shapes that are copied to the device and back."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[int, ...]] = []
        self.fetched: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        devices = {value.device.type for value in args if isinstance(value, Tensor)}
        if devices and isinstance(out, Tensor) and devices | {out.device.type} == {"cpu", "cuda"}:
            (self.fetched if out.device.type == "cpu" else self.sent).append(tuple(out.shape))
        return out


class OnHost:
    """A label of clips, which stays on the host: a tensor's own ``numpy`` gives no values in here."""

    def __init__(self, label: Tensor) -> None:
        self.array = label.numpy()

    def numpy(self) -> np.ndarray:
        return self.array


def to_device(module: nn.Module) -> nn.Module:
    """The module with parameters and buffers of no values on the device."""
    for part in module.modules():
        for name, value in part._parameters.items():
            if value is not None:
                part._parameters[name] = nn.Parameter(torch.empty(value.shape, dtype=value.dtype, device=DEVICE))
        for name, value in part._buffers.items():
            if value is not None:
                part._buffers[name] = torch.empty(value.shape, dtype=value.dtype, device=DEVICE)
    return module


@pytest.fixture(autouse=True)
def made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read from the device comes as numbers that were made up."""

    def to_host(values: Tensor) -> np.ndarray:
        values.cpu()
        return np.full(tuple(values.shape), 0.5, np.float32) + np.linspace(0, 0.1, values.shape[-1], dtype=np.float32)

    for module in (objectives, search):
        monkeypatch.setattr(module, "to_host", to_host)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)  # no page-locked memory of no values


def step(mode: str, misplaced: bool = False) -> Copies:
    """Forward pass and loss of one batch of two; the copies that they make."""
    config = tiny_config(mode)
    batch = collate([source_for(config).sample(np.random.default_rng(i), 1.0) for i in range(2)])
    if mode == "clips":
        labels = {name: OnHost(getattr(batch, name)) for name in ("boxes", "present", "anchors", "use_truth")}
        batch = batch._replace(frames=[OnHost(clip) for clip in batch.frames], **labels)
    network = build_network(config.model)
    probes = ForegroundProbes(config.model.dim, config.model.depth) if mode == "pairs" else None
    with FakeTensorMode(allow_non_fake_inputs=True):
        to_device(network)
        if misplaced:
            network.type_embed = nn.Parameter(torch.empty(network.type_embed.shape))
        objective = build_objective(network, config, to_device(probes) if probes is not None else None)
        with Copies() as copies:
            loss, terms = objective(batch)
        assert loss.device.type == "cuda" and all(term.device.type == "cuda" for term in terms.values())
    return copies


def test_a_step_of_pairs_sends_its_batch_and_reads_nothing() -> None:
    copies = step("pairs")
    template, boxes, crops, truth, present = (2, 1, 32, 32, 3), (2, 1, 4), (2, 64, 64, 3), (2, 4), (2,)
    assert copies.sent == [template, boxes, crops, truth, present] and not copies.fetched


def test_a_step_of_clips_makes_one_copy_each_way_per_frame() -> None:
    copies = step("clips")
    once, frames = [(2, 1, 32, 32, 3), (2, 1, 4), (4, 4)], 3  # templates, their boxes and the window
    assert copies.sent == once + [(2, 32 + 64 * 64 * 3)] * frames and copies.fetched == [(2, 4)] * frames


@pytest.mark.parametrize("mode", ["pairs", "clips"])
def test_a_tensor_left_on_the_host_fails_the_step(mode: str) -> None:
    with pytest.raises(RuntimeError, match="device"):
        step(mode, misplaced=True)


@pytest.mark.parametrize("sync", ["item", "cpu"])
def test_a_hidden_read_inside_the_step_fails(monkeypatch: pytest.MonkeyPatch, sync: str) -> None:
    ordinary = objectives.tracking_loss

    def reading(*args):  # type: ignore[no-untyped-def]
        loss, terms = ordinary(*args)
        getattr(loss, sync)()
        return loss, terms

    monkeypatch.setattr(objectives, "tracking_loss", reading)
    with pytest.raises((RuntimeError, AssertionError)):
        test_a_step_of_pairs_sends_its_batch_and_reads_nothing()


@pytest.mark.filterwarnings("ignore:Accessing the data pointer")  # of parameters, to know them again
def test_an_update_of_a_session_reads_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[int] = []
    monkeypatch.setattr(inference, "is_bounded", lambda steepest: checks.append(len(steepest)) or True)
    config = tiny_config()
    network = build_network(config.model).eval()
    frame = np.zeros((96, 96, 3), np.uint8)
    with FakeTensorMode(allow_non_fake_inputs=True):
        tracker = Tracker(to_device(network), config.track)
        tracker.init(frame, np.array([30.0, 30, 24, 24]))
        with Copies() as copies:
            tracker.update(frame)
    assert len(copies.fetched) == len(checks) == 1  # the maps with box and score, and whether decays were in bounds
    assert copies.sent == [(1, 64, 64, 3), (1, 3)]  # the crop and its place
