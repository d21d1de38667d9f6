"""The mobile stem: NanoTrack V3's backbone as PyTorch layers, and how its weights are read."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from vil_tracker import native
from vil_tracker.config import ModelConfig
from vil_tracker.data.crops import to_input
from vil_tracker.errors import UserError
from vil_tracker.evaluation.nanotrack import open_session
from vil_tracker.models.inference import InferenceNetwork
from vil_tracker.models.inference_stem import MobileStemKernel, fast_stem
from vil_tracker.models.network import build_network
from vil_tracker.models.stem import MobileStem, load_mobile_stem

onnx = pytest.importorskip("onnx")


def layers_of(stem: MobileStem) -> list[nn.Module]:
    return [part for part in stem.modules() if isinstance(part, nn.Conv2d | nn.Linear) and part is not stem.proj]


def write_backbone(path: Path, layers: list[nn.Module]) -> None:
    """An ONNX file whose nodes hold these layers' weights, in this order."""
    nodes, values = [], []
    for index, layer in enumerate(layers):
        names = [f"weight{index}", f"bias{index}"]
        operation = "Conv" if isinstance(layer, nn.Conv2d) else "Gemm"
        nodes.append(onnx.helper.make_node(operation, [f"x{index}", *names], [f"x{index + 1}"]))
        for name, value in zip(names, (layer.weight, layer.bias), strict=True):
            values.append(onnx.numpy_helper.from_array(value.detach().numpy(), name))
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "backbone", [], [], values)), path)


def test_same_features_as_the_authors_network(shared: Path) -> None:
    """Against onnxruntime on BGR pixels, borders included; a batch gives what its crops give alone."""
    path = shared / "peers" / "nanotrack_v3" / "nanotrack_backbone.onnx"
    if not path.is_file():
        pytest.skip("no NanoTrack V3")
    stem = MobileStem(32).eval()
    load_mobile_stem(stem, path)
    crops = np.random.default_rng(0).integers(0, 256, (2, 224, 160, 3), np.uint8)
    session = open_session(path, free_size=True)
    expected = [
        session.run(None, {"input": crop[None, ..., ::-1].transpose(0, 3, 1, 2).astype(np.float32)})[0]
        for crop in crops
    ]
    with torch.inference_mode():
        found = stem.features(to_input(torch.from_numpy(crops), torch.device("cpu")))
    np.testing.assert_allclose(found.numpy(), np.concatenate(expected), rtol=0, atol=1e-4)  # values up to 7


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-4), (torch.bfloat16, 0.1)])
@torch.no_grad()
def test_fast_stem_is_the_same_function(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    stem = MobileStem(32).double().eval()
    image = torch.randn(2, 3, 64, 96).double()
    expected = stem(image)
    kept = stem.to(torch.promote_types(dtype, torch.float32))
    found = fast_stem(kept, dtype, kernel=False)(image.to(kept.proj.weight.dtype)).double()
    assert (found - expected).abs().max() < tolerance * expected.abs().max()


@pytest.mark.skipif(native.unavailable_reason("mobile_stem") is not None, reason="no C++ compiler")
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(("B", "rows", "columns"), [(1, 224, 224), (3, 64, 96), (2, 112, 48), (1, 81, 115)])
@torch.no_grad()
def test_the_program_is_the_same_function(threads: int, B: int, rows: int, columns: int) -> None:
    """Against the layers in float64, for any layout of the image; any number of threads gives the same numbers."""
    torch.manual_seed(0)
    stem = MobileStem(64).double().eval()
    for layer in layers_of(stem):
        nn.init.normal_(layer.bias, std=0.3)  # type: ignore[arg-type]
    image = torch.randn(B, 3, rows, columns).double()
    expected = stem(image)
    program = fast_stem(stem.float(), torch.float32, kernel=True)
    assert isinstance(program, MobileStemKernel)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        planes = program(image.float())
        channels_last = program(image.float().contiguous(memory_format=torch.channels_last))
        torch.set_num_threads(1)
        alone = torch.cat([program(one[None].float()) for one in image])
    finally:
        torch.set_num_threads(before)
    assert (planes - expected).abs().max() < 1e-5 * expected.abs().max()
    assert torch.equal(planes, channels_last) and torch.equal(planes, alone)


@pytest.mark.skipif(native.unavailable_reason("mobile_stem") is not None, reason="no C++ compiler")
@torch.no_grad()
def test_the_program_leaves_other_networks_alone() -> None:
    """float64, and widths that do not fill vectors, stay with PyTorch's operations; bfloat16 comes out rounded."""
    assert not isinstance(fast_stem(MobileStem(64).double(), torch.float64, kernel=True), MobileStemKernel)
    assert not isinstance(fast_stem(MobileStem(36), torch.float32, kernel=True), MobileStemKernel)
    assert not isinstance(fast_stem(MobileStem(64), torch.float32, kernel=False), MobileStemKernel)
    torch.manual_seed(0)
    stem, image = MobileStem(64).eval(), torch.randn(1, 3, 64, 64)
    found = fast_stem(stem, torch.bfloat16, kernel=True)(image.bfloat16())
    assert found.dtype == torch.bfloat16
    expected = stem(image.bfloat16().float())
    assert (found - expected).abs().max() < 0.005 * expected.abs().max()


@torch.no_grad()
def test_a_prepared_network_has_it() -> None:
    torch.manual_seed(0)
    config = ModelConfig(name="test", dim=32, depth=2, stem="mobile", head_channels=16, template_size=64)
    net = build_network(config).double().eval()
    crops, boxes = torch.randn(1, 1, 3, 64, 64).double(), torch.tensor([[[0.2, 0.3, 0.8, 0.7]]]).double()
    search = torch.randn(1, 3, 96, 128).double()
    prepared = InferenceNetwork(net)
    found = prepared.forward_search(search, prepared.encode_templates(crops, boxes))
    expected = net.forward_search(search, net.encode_templates(crops, boxes))
    torch.testing.assert_close(found.features, expected.features, rtol=0, atol=1e-10)


def test_weights_are_read_in_order_and_colours_turned(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source, stem = MobileStem(32), MobileStem(32)
    projection = stem.proj.weight.clone()
    write_backbone(tmp_path / "backbone.onnx", layers_of(source))
    load_mobile_stem(stem, tmp_path / "backbone.onnx")
    torch.testing.assert_close(stem.first.weight, 255 * source.first.weight.flip(1))
    for ours, theirs in zip(layers_of(stem)[1:], layers_of(source)[1:], strict=True):
        torch.testing.assert_close(ours.weight, theirs.weight)
        torch.testing.assert_close(ours.bias, theirs.bias)
    torch.testing.assert_close(stem.proj.weight, projection)


def test_other_networks_are_refused(tmp_path: Path) -> None:
    stem = MobileStem(32)
    write_backbone(tmp_path / "short.onnx", layers_of(stem)[:-1])
    (tmp_path / "text.onnx").write_text("no network")
    for name, message in (("short", "other layers"), ("text", "cannot be read"), ("absent", "cannot be read")):
        with pytest.raises(UserError, match=rf"{name}\.onnx.*{message}"):
            load_mobile_stem(stem, tmp_path / f"{name}.onnx")


def test_the_projection_is_the_nearest_linear_map() -> None:
    path = Path(__file__).parents[2] / "scripts" / "replace_stem.py"
    spec = importlib.util.spec_from_file_location("replace_stem", path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    torch.manual_seed(0)
    stem = MobileStem(32).requires_grad_(False)
    features, weight, bias = torch.randn(4000, 96), torch.randn(32, 96), torch.randn(32)
    tokens = features @ weight.T + bias
    noise = torch.randn_like(tokens) * tokens.std()
    assert script.fit_projection(stem, features, tokens + noise) == pytest.approx(0.5, abs=0.02)
    torch.testing.assert_close(stem.proj.weight.flatten(1), weight, rtol=0, atol=1.0)
    assert script.fit_projection(stem, features, tokens) > 0.999
    torch.testing.assert_close(stem.proj(features[:, :, None, None]).flatten(1), tokens, rtol=0, atol=0.2)
