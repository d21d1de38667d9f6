from __future__ import annotations

import copy
import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vil_tracker import cli
from vil_tracker.boxes import convert, iou
from vil_tracker.config import ModelConfig
from vil_tracker.data.crops import crop, geometry_for_box, to_input
from vil_tracker.data.synthetic.demo_clip import DemoClip
from vil_tracker.errors import UserError
from vil_tracker.export.graphs import FrameGraph, example_inputs
from vil_tracker.export.parity import compare
from vil_tracker.export.write import export_network
from vil_tracker.images import write_image
from vil_tracker.models.exported import (
    FORMATS,
    FRAME_INPUTS,
    ExportedModel,
    Format,
    empty_memory,
    stack_memory,
    unstack_memory,
)
from vil_tracker.models.film_temporal import TemporalContext, updated_context
from vil_tracker.models.inference import InferenceNetwork
from vil_tracker.models.loading import load_search_model
from vil_tracker.models.network import ViLTrackerNet, build_network
from vil_tracker.models.pretrained import load_model, save_model
from vil_tracker.tracking.tracker import Tracker

TOY = ModelConfig(
    name="toy", dim=32, depth=2, template_size=32, search_size=80, modulation_interval=2, head_channels=16
)


@pytest.fixture(scope="module")
def network() -> ViLTrackerNet:
    """A network in which no parameter has its trivial initial value."""
    torch.manual_seed(0)
    net = build_network(TOY).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


@pytest.fixture(scope="module")
def weights(network: ViLTrackerNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("weights") / "toy.safetensors"
    save_model(network, file)
    return file


@pytest.fixture
def clip(tmp_path: Path) -> tuple[Path, str]:
    """A folder of four frames, and the target's box as the command line takes it."""
    painted = DemoClip(frames=4, width=320, height=180)
    (tmp_path / "clip").mkdir()
    for index, frame in enumerate(painted):
        write_image(tmp_path / "clip" / f"{index}.png", frame)
    return tmp_path / "clip", ",".join(str(value) for value in painted.boxes[0])


def skip_without_libraries(format: str) -> None:
    needed = {
        "torch-export": ((), "export"),
        "onnx": (("onnx", "onnxscript", "onnxruntime"), "export"),
        "openvino": (("onnx", "onnxscript", "openvino"), "openvino"),
    }
    modules, extra = needed[format]
    for module in modules:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}: pip install 'vil-tracker[{extra}]'")


@pytest.fixture(scope="module")
def onnx_folder(network: ViLTrackerNet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    skip_without_libraries("onnx")
    return export_network(network, tmp_path_factory.mktemp("export") / "onnx", "onnx")


def inputs(batch: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, TemporalContext]:
    generator = torch.Generator().manual_seed(batch)
    crops = torch.randn(batch, 2, 3, 32, 32, generator=generator)
    boxes = torch.tensor([0.2, 0.2, 0.7, 0.8]).expand(batch, 2, 4)
    tokens = torch.randn(batch, 25, 32, generator=generator)
    context = updated_context(None, tokens, (5, 5), torch.tensor([[50.0, 50.0, 40.0]] * batch))
    return crops, boxes, torch.randn(batch, 3, 80, 80, generator=generator), context


@pytest.mark.parametrize("batch", [1, 3])
@torch.no_grad()
def test_onnx_gives_the_networks_outputs(network: ViLTrackerNet, onnx_folder: Path, batch: int) -> None:
    """Two templates one after the other, with and without a context."""
    exported = ExportedModel(onnx_folder)
    crops, boxes, search, context = inputs(batch)
    memory, expected_memory = exported.encode_templates(crops, boxes), network.encode_templates(crops, boxes)
    for state, expected_state in zip(memory.states, expected_memory.states, strict=True):
        for ours, theirs in zip(state, expected_state, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    for known in (None, context):
        found = exported.forward_search(search, memory, known)
        expected = network.forward_search(search, expected_memory, known)
        for ours, theirs in zip(found[:4], expected[:4], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "format", ["torch-export", *(pytest.param(f, marks=pytest.mark.soak) for f in ("onnx", "openvino"))]
)
@torch.no_grad()
def test_a_correlation_goes_along(tmp_path: Path, format: Format) -> None:
    """Its template's features lie in the memory, the newest template's; two targets at once."""
    skip_without_libraries(format)
    torch.manual_seed(0)
    network = build_network(replace(TOY, stem="mobile", correlation=0.5)).eval()
    exported = ExportedModel(export_network(network, tmp_path / "out", format))
    crops, boxes, search, context = inputs(2)
    memory, expected_memory = exported.encode_templates(crops, boxes), network.encode_templates(crops, boxes)
    assert memory.features is not None
    torch.testing.assert_close(memory.features, expected_memory.features, rtol=1e-4, atol=1e-4)
    found, expected = exported.forward_search(search, memory, context), network.forward_search(search, memory, context)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "format, count", [("onnx", 25), *(pytest.param(name, 100, marks=pytest.mark.soak) for name in FORMATS)]
)
def test_trained_network_finds_the_same_boxes(
    footage: tuple[list[np.ndarray], np.ndarray], tmp_path: Path, format: Format, count: int
) -> None:
    skip_without_libraries(format)
    trained = load_model("nano", device="cpu")
    exported = ExportedModel(export_network(trained, tmp_path / "out", format))
    frames, box = footage[0][: count + 1], footage[1]
    parity = compare(trained, exported, frames, box)
    assert parity.frames == count and parity.crops.shape[1] >= count
    assert parity.same_crops.min() >= 0.999 and parity.holds
    assert parity.own_tracks.mean() >= 0.999

    def crops(size: int, factor: float) -> torch.Tensor:
        """Of three targets."""
        regions = [geometry_for_box(box + offset, factor, size) for offset in (0.0, 9.0, 17.0)]
        return to_input(np.stack([crop(frames[index], region) for index, region in enumerate(regions)]))

    config = trained.config
    boxes = torch.tensor([0.25, 0.25, 0.75, 0.75]).repeat(3, 1)
    templates = crops(config.template_size, config.template_factor)[:, None]
    search = crops(config.search_size, config.search_factor)
    with torch.no_grad():
        together = exported.forward_search(search, exported.encode_templates(templates, boxes[:, None]))
        expected = trained.forward_search(search, trained.encode_templates(templates, boxes[:, None]))
    found, truth = (model.decode(answer)[0] for model, answer in ((exported, together), (trained, expected)))
    assert iou(*(convert(part, "xyxy", "xywh").numpy() for part in (found, truth))).min() >= 0.999


def test_a_pair_tracks_as_its_first_model_alone(network: ViLTrackerNet) -> None:
    clip = DemoClip(frames=12, width=320, height=180)
    frames = list(clip)
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.head.size[-1].bias.add_(0.3)
    parity = compare(network, InferenceNetwork(other), frames, clip.boxes[0])
    for track, model in zip(parity.tracks, (network, other), strict=True):
        tracker = Tracker(model)
        tracker.init(frames[0], clip.boxes[0])
        assert np.array_equal(track, [tracker.update(frame).box for frame in frames[1:]])
    assert parity.frames == 11 and parity.crops.shape == (2, 11, 4)
    assert not parity.holds and parity.same_crops.mean() < 0.95


def test_a_memory_of_the_wrong_template_is_found_out(network: ViLTrackerNet) -> None:
    class Forgetful(InferenceNetwork):
        def encode_templates(self, templates: torch.Tensor, template_boxes: torch.Tensor, memory=None):
            return super().encode_templates(torch.zeros_like(templates), template_boxes, memory)

    clip = DemoClip(frames=6, width=320, height=180)
    assert not compare(network, Forgetful(network), clip, clip.boxes[0]).holds
    assert compare(network, InferenceNetwork(network), clip, clip.boxes[0]).same_crops.min() == 1.0


def test_models_are_compared_over_two_frames_or_more(network: ViLTrackerNet) -> None:
    clip = DemoClip(frames=1, width=320, height=180)
    with pytest.raises(UserError, match="two frames or more"):
        compare(network, InferenceNetwork(network), clip, clip.boxes[0])


def test_export_command_compares_on_a_video_of_the_users(
    weights: Path, clip: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", "--weights", str(weights), "--format", "torch-export", "--output", str(tmp_path / "out")]
    assert cli.main([*words, "--parity-source", str(clip[0]), "--parity-box", clip[1]]) == 0
    printed = capsys.readouterr().out
    assert "over 3 frames, on the same crops: IoU 1.0000" in printed and "each following its own boxes: 1.0" in printed
    for part in (["--parity-source", str(clip[0])], ["--parity-box", clip[1]]):
        assert cli.main([*words, *part]) == 2
        assert "go together" in capsys.readouterr().err


def test_track_command_runs_the_exported_network(
    weights: Path, onnx_folder: Path, clip: tuple[Path, str], tmp_path: Path
) -> None:
    found = {}
    for name, words in {
        "torch": ["--weights", str(weights)],
        "onnx": ["--weights", str(onnx_folder), "--backend", "onnxruntime"],
        "int8": ["--weights", str(weights), "--dtype", "int8"],
    }.items():
        folder = tmp_path / name
        words = ["-q", "track", str(clip[0]), "--box", clip[1], "--no-video", "-o", str(folder), *words]
        assert cli.main(words) == 0
        found[name] = np.genfromtxt(folder / "boxes.csv", delimiter=",", names=True)
    boxes = {name: np.stack([table[key] for key in ("x", "y", "w", "h")], 1) for name, table in found.items()}
    assert iou(boxes["torch"], boxes["onnx"]).min() >= 0.999
    assert np.isfinite(boxes["int8"]).all()


@pytest.mark.parametrize("format", ["torch-export", "openvino"])
@torch.no_grad()
def test_other_formats_give_the_networks_outputs(network: ViLTrackerNet, tmp_path: Path, format: str) -> None:
    skip_without_libraries(format)
    exported = ExportedModel(export_network(network, tmp_path / "out", format))  # type: ignore[arg-type]
    for batch in (1, 2):
        crops, boxes, search, context = inputs(batch)
        found = exported.forward_search(search, exported.encode_templates(crops, boxes), context)
        expected = network.forward_search(search, network.encode_templates(crops, boxes), context)
        for ours, theirs in zip(found[:4], expected[:4], strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def test_frame_graph_decodes_and_learns_as_the_session_does(network: ViLTrackerNet) -> None:
    crops, boxes, search, context = inputs(2)
    memory = network.encode_templates(crops, boxes)
    window = torch.rand(2, 5, 5)
    graph = FrameGraph(network)
    outputs = graph(search, *stack_memory(memory), context.features, context.valid, window)
    expected = network.forward_search(search, memory, context)
    for ours, theirs in zip(outputs[:2], network.decode(expected, window), strict=True):
        torch.testing.assert_close(ours, theirs)
    learned = updated_context(context, expected.features, context.grid, context.crops)
    torch.testing.assert_close(outputs[-1], learned.features, rtol=1e-5, atol=1e-5)


def test_empty_memory_is_no_memory(network: ViLTrackerNet) -> None:
    crops, boxes, _, _ = inputs(1)
    memory = unstack_memory(*empty_memory(TOY, 1))
    with torch.no_grad():
        found, expected = network.encode_templates(crops, boxes, memory), network.encode_templates(crops, boxes)
    for ours, theirs in zip(stack_memory(found), stack_memory(expected), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_examples_fit_the_graphs(network: ViLTrackerNet) -> None:
    _, frame = example_inputs(TOY, 2)
    assert len(frame) == len(FRAME_INPUTS) - 1  # without correlation, no template
    with torch.no_grad():
        boxes, scores, *_ = FrameGraph(network)(*frame)
    assert boxes.shape == (2, 4) and scores.shape == (2,)


def test_a_folder_of_something_else_is_left_alone(network: ViLTrackerNet, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="no earlier export"):
        export_network(network, tmp_path, "torch-export")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_failure_leaves_nothing(network: ViLTrackerNet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch.export, "export", full)
    with pytest.raises(UserError, match="No space left"):
        export_network(network, tmp_path / "out", "torch-export")
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_told(onnx_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is none: write one with vil-tracker export --format onnx"):
        load_search_model("nano", backend="onnxruntime")
    with pytest.raises(UserError, match="was exported as onnx"):
        load_search_model(onnx_folder, backend="openvino")
    with pytest.raises(UserError, match="leave --backend out"):
        load_search_model(onnx_folder, backend="torch")
    with pytest.raises(UserError, match="float32 on the CPU"):
        load_search_model(onnx_folder, precision="int8")
    with pytest.raises(UserError, match="holds no exported tracker"):
        ExportedModel(tmp_path)
    damaged = tmp_path / "damaged"
    shutil.copytree(onnx_folder, damaged)
    (damaged / "frame.onnx").write_bytes(b"not a graph")
    with pytest.raises(UserError, match="cannot load"):
        ExportedModel(damaged)
    (damaged / "model.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        ExportedModel(damaged)
