"""The correlation of template and search features: NanoTrack V3's head as PyTorch layers, and the mean of opinions."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from vil_tracker.config import ModelConfig
from vil_tracker.errors import UserError
from vil_tracker.evaluation.nanotrack import NanoTrackNetworks
from vil_tracker.models.correlation import (
    FIRST_POINT,
    STRIDE,
    CorrelationBranch,
    load_correlation,
    mean_of_opinions,
    points_to_cells,
    resized_for_correlation,
)
from vil_tracker.models.inference import InferenceNetwork
from vil_tracker.models.network import ViLTrackerNet, build_network
from vil_tracker.models.pretrained import load_model, save_model

SCRIPT = Path(__file__).parents[2] / "scripts" / "add_correlation.py"

CONFIG = ModelConfig(
    name="test",
    dim=32,
    depth=2,
    stem="mobile",
    head_channels=16,
    template_size=64,
    search_size=128,
    modulation_interval=2,
    correlation=0.3,
)


def network() -> ViLTrackerNet:
    torch.manual_seed(0)
    return build_network(CONFIG).double().eval()


def inputs(templates: int = 1) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    crops = torch.randn(2, templates, 3, 64, 64, generator=generator).double()
    boxes = torch.tensor([0.2, 0.3, 0.8, 0.7]).double().expand(2, templates, 4)
    return crops, boxes, torch.randn(2, 3, 128, 128, generator=generator).double()


def test_same_answers_as_the_authors_network(shared: Path) -> None:
    """Against onnxruntime: at a point between the cells the logit, and the box in pixels of the 255 px crop."""
    pytest.importorskip("onnx")
    folder = shared / "peers" / "nanotrack_v3"
    if not folder.is_dir():
        pytest.skip("no NanoTrack V3")
    branch = CorrelationBranch().eval()
    load_correlation(branch, folder / "nanotrack_head.onnx")
    networks = NanoTrackNetworks(folder)
    rng = np.random.default_rng(0)
    template, search = (
        networks.features(rng.integers(0, 256, (size, size, 3)).astype(np.float32)) for size in (127, 255)
    )
    probability, (x1, y1, x2, y2) = networks.locate(template, search)
    with torch.inference_mode():
        pair = torch.from_numpy(template), torch.from_numpy(search)
        background, target = branch.score(*pair)[0].flatten(1)
        left, top, right, bottom = branch.box(*pair)[0].flatten(1).exp()
    np.testing.assert_allclose((target - background).sigmoid(), probability, atol=1e-5)
    np.testing.assert_allclose(left + right, x2 - x1, rtol=1e-4)
    np.testing.assert_allclose(top + bottom, y2 - y1, rtol=1e-4)


def test_opinions_at_the_cells_are_those_of_the_points_around_them() -> None:
    """What grows evenly over the crop is read exactly between the outermost points, and stands still beyond them."""
    points = (torch.arange(15) * STRIDE + FIRST_POINT) / 256
    plane = torch.stack([points.expand(15, 15), points[:, None].expand(15, 15)])[None]
    cells = points_to_cells(plane, (256, 256), (14, 10))
    columns, rows = ((torch.arange(count) + 0.5) / count for count in (10, 14))
    low, high = points[0], points[-1]
    torch.testing.assert_close(cells[0, 0], columns.clamp(low, high).expand(14, 10))
    torch.testing.assert_close(cells[0, 1], rows.clamp(low, high)[:, None].expand(14, 10))


def test_mean_of_two_opinions() -> None:
    """By hand, in the second of four cells, of boxes 0.5 and 0.125 wide, three tenths of the way to the second."""
    score, offset, size = torch.zeros(1, 1, 4, 4), torch.full((1, 2, 4, 4), 0.5), torch.full((1, 2, 4, 4), 0.5)
    opinion = torch.zeros(1, 5, 4, 4)
    opinion[:, 0], opinion[:, 1:3], opinion[:, 3:] = 3.0, 0.5, 0.625  # centred on 0.5625 of the crop, 2.25 cells
    logits, offsets, sizes = mean_of_opinions(score, offset, size, opinion, 0.3)
    torch.testing.assert_close(logits[0, 0, 1, 1], torch.tensor(0.9))
    torch.testing.assert_close(offsets[0, :, 1, 1], torch.tensor([0.725, 0.725]))  # between 1.5 and 2.25, in cell 1
    torch.testing.assert_close(sizes[0, :, 1, 1], torch.tensor([0.5 * 0.25**0.3] * 2))


def test_crops_are_brought_to_the_scale_of_the_weights() -> None:
    assert resized_for_correlation(torch.zeros(1, 3, 112, 112), 112, 8).shape == (1, 3, 128, 128)
    assert resized_for_correlation(torch.zeros(1, 3, 448, 224), 224, 16).shape == (1, 3, 512, 256)
    crop = torch.zeros(1, 3, 256, 256)
    assert resized_for_correlation(crop, 256, 16) is crop


@torch.no_grad()
def test_a_share_of_the_maps_is_the_correlations() -> None:
    """The maps of the same network without it, averaged with its own opinion; the prepared network and one pass over
    template and search give the same.
    """
    net = network()
    crops, boxes, search = inputs()
    memory = net.encode_templates(crops, boxes)
    found = net.forward_search(search, memory)
    alone = build_network(replace(CONFIG, correlation=0.0)).double().eval()
    alone.load_state_dict({n: v for n, v in net.state_dict().items() if not n.startswith("correlation.")})
    own = alone.forward_search(search, alone.encode_templates(crops, boxes))
    assert net.correlation is not None and memory.features is not None
    stem = net.backbone.patch_embed
    opinion = net.correlation(memory.features, stem.features(resized_for_correlation(search, 128, 16)), (8, 8))
    for ours, expected in zip(found[:3], mean_of_opinions(*own[:3], opinion, 0.3), strict=True):
        torch.testing.assert_close(ours, expected)
    assert (found.score_logits - own.score_logits).abs().max() > 0.1

    prepared = InferenceNetwork(net)
    for other in (net(crops, boxes, search), prepared.forward_search(search, prepared.encode_templates(crops, boxes))):
        for ours, expected in zip(other, found, strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-8)


@torch.no_grad()
def test_it_compares_with_the_newest_template() -> None:
    net = network()
    crops, boxes, _ = inputs(templates=2)
    both, last = net.encode_templates(crops, boxes), net.encode_templates(crops[:, 1:], boxes[:, 1:])
    first = net.encode_templates(crops[:, :1], boxes[:, :1])
    later = net.encode_templates(crops[:, 1:], boxes[:, 1:], first)
    assert both.features is not None and first.features is not None
    torch.testing.assert_close(both.features, last.features)
    torch.testing.assert_close(later.features, last.features)
    assert (both.features - first.features).abs().max() > 0.01


@pytest.mark.parametrize("bfloat16", [False, True])
def test_it_learns(bfloat16: bool) -> None:
    """Under autocast as well, where its answers stay float32."""
    net = network().float().train()
    crops, boxes, search = (part.float() for part in inputs())
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        output = net(crops, boxes, search)
    assert output.score_logits.dtype == output.offset.dtype == output.size.dtype == torch.float32
    (output.score_logits.sum() + output.offset.sum() + output.size.sum()).backward()
    assert net.correlation is not None
    for name, parameter in net.correlation.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_the_script_adds_it_and_leaves_the_rest(tmp_path: Path, shared: Path) -> None:
    pytest.importorskip("onnx")
    head = shared / "peers" / "nanotrack_v3" / "nanotrack_head.onnx"
    if not head.is_file():
        pytest.skip("no NanoTrack V3")
    torch.manual_seed(0)
    before, after = tmp_path / "before.safetensors", tmp_path / "after.safetensors"
    save_model(build_network(replace(CONFIG, correlation=0.0)), before, dtype=torch.float16)
    command = [sys.executable, str(SCRIPT), str(before), str(head), "--output", str(after), "--share"]
    refused = subprocess.run([*command, "0"], capture_output=True, text=True)
    assert refused.returncode == 2 and "adds nothing" in refused.stderr and not after.exists()
    done = subprocess.run([*command, "0.4"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found, expected = load_model(after, "cpu"), CorrelationBranch()
    assert found.config == replace(CONFIG, correlation=0.4) and found.correlation is not None
    load_correlation(expected, head)
    for name, value in expected.state_dict().items():
        torch.testing.assert_close(found.correlation.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    for name, value in load_model(before, "cpu").state_dict().items():
        assert torch.equal(found.state_dict()[name], value), name


def test_bad_input_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    with pytest.raises(UserError, match=r"model\.stem is 'conv', expected mobile with correlation"):
        ModelConfig(stem="conv", correlation=0.5)
    (tmp_path / "nanotrack_head.onnx").write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"give nanotrack_head\.onnx of V3"):
        load_correlation(CorrelationBranch(), tmp_path / "nanotrack_head.onnx")
