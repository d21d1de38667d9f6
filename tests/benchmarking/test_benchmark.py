from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from track_clips import peak_calibration

from vil_tracker import cli
from vil_tracker.benchmarking import end_to_end, run
from vil_tracker.benchmarking.machine import time_interleaved
from vil_tracker.benchmarking.parts import KERNEL, count_operations, frame_inputs, time_parts
from vil_tracker.benchmarking.vit import OneStreamViT
from vil_tracker.config import ModelConfig
from vil_tracker.models.inference import InferenceNetwork
from vil_tracker.models.network import build_network
from vil_tracker.native import unavailable_reason
from vil_tracker.tracking import search

TOY = ModelConfig(
    name="toy", dim=32, depth=2, template_size=32, search_size=64, modulation_interval=2, head_channels=16
)


def test_command_measures_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "MODEL_SIZES", dict.fromkeys(("nano", "tiny", "small"), TOY))
    monkeypatch.setattr(end_to_end, "KNOWN", ("MIL", "GOTURN"))
    monkeypatch.setattr(end_to_end, "PEER_SECONDS", 0.01)
    file = tmp_path / "new" / "found.json"
    words = ["benchmark", "--peers", "--repeats", "2", "--frames", "4", "--dtype", "float32", "bfloat16"]
    assert cli.main([*words, "--json", str(file)]) == 0
    found = json.loads(file.read_text())
    assert found["dtypes"].keys() == {"float32", "bfloat16"}
    for measured in found["dtypes"].values():
        rows = [measured["against_vit"][size][count] for size in ("tiny", "small") for count in ("1", "4", "8")]
        assert all(row["ratio"] > 0 for row in rows)
    inside = "cell" if unavailable_reason("sublayer") else KERNEL
    for part in ("stem", "projections", inside, "head", "frame"):
        assert found["dtypes"]["float32"]["milliseconds"][part] > 0
    for dtype in ("float32", "bfloat16"):
        assert all(row["frames_per_second"] > 0 for row in found["dtypes"][dtype]["end_to_end"].values())
    assert {"decode", "network", "write"} <= measured["end_to_end"]["boxes_and_video"]["milliseconds"].keys()
    assert found["peers"]["OpenCV MIL"] > 0 and found["peers"]["OpenCV GOTURN"] is None
    text = capsys.readouterr().out
    assert "peak memory" in text and "matmul rate" in text and "GFLOP" in text
    assert (
        "--peers-dir: OpenCV GOTURN" in text
        and "float32, boxes and video" in text
        and "bfloat16, tracker alone" in text
    )


def test_a_followed_a_doubted_and_a_lost_target_are_timed_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three frames, each tracker's crops: one while followed, two while lost."""
    network = build_network(TOY).eval()
    network.calibration = peak_calibration(bias=0.0, slope=0.0).to_json()
    crops: list[int] = []
    original = search.run_search
    monkeypatch.setattr(
        search,
        "run_search",
        lambda m, f, requests, *rest: crops.append(len(requests)) or original(m, f, requests, *rest),
    )
    found = end_to_end.time_states(InferenceNetwork(network), *frames_and_box(4))
    assert found.keys() == {"followed", "in doubt", "lost"} and min(found.values()) > 0
    assert sum(crops) == 3 * (1 + 2 + 2)
    assert end_to_end.time_states(InferenceNetwork(build_network(TOY).eval()), *frames_and_box(2)).keys() == {
        "followed"
    }


def frames_and_box(count: int) -> tuple[list[np.ndarray], np.ndarray]:
    frames, boxes = end_to_end.paint_clip(count)
    return frames, boxes[0]


def test_parts_without_the_kernel() -> None:
    """As on other devices: the parts between the projections, which together count the same operations."""
    network = build_network(TOY).eval()
    plain = time_parts(InferenceNetwork(network, kernel=False), repeats=2)
    assert {"projections", "convolution", "q, k, v", "cell"} <= plain.keys() and KERNEL not in plain
    one, several = count_operations(network, kernel=True), count_operations(network)
    assert one[KERNEL] == sum(several[name] for name in ("convolution", "q, k, v", "cell"))
    assert sum(one.values()) == pytest.approx(sum(several.values()))


def test_operations_against_a_count_of_the_products() -> None:
    """PyTorch's own counter sees the same convolutions and projections; it counts whole blocks elsewhere."""
    from torch.utils.flop_counter import FlopCounterMode

    network = build_network(TOY).eval().requires_grad_(False)
    ours = count_operations(network)
    crops = torch.zeros(1, 3, 64, 64)
    with FlopCounterMode(display=False) as counter:
        tokens, grid = network.backbone.embed(crops)
        network.head(tokens.transpose(1, 2).unflatten(2, grid))
    assert ours["stem"] + ours["head"] == counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        for sublayer in network.backbone.sublayers:
            sublayer.layer.proj_down(sublayer.layer.proj_up(tokens)[..., :64].contiguous())
    assert ours["projections"] == counter.get_total_flops()
    assert "correlation" not in ours


def test_the_correlation_is_counted_and_timed() -> None:
    """By hand, beside the stem's pass over the crop of 256 pixels that PyTorch's counter sees."""
    from torch.utils.flop_counter import FlopCounterMode

    network = build_network(replace(TOY, stem="mobile", correlation=0.5)).eval().requires_grad_(False)
    with FlopCounterMode(display=False) as counter:
        network.backbone.patch_embed.features(torch.zeros(1, 3, 256, 256))
    points, cells, width, kernels = 15**2, 16**2, 96, 8**2
    pixel = width**2 * (kernels + cells) + width * kernels * cells + kernels**2 * (2 + points) + 4 * kernels * points
    depth = width**2 * (4**2 + cells)
    tower = (width + kernels) * width * points + 6 * (9 * width + width**2) * points
    read = 5 * (4 * 15 * 15 + 4 * 15 * 4)  # at 4 × 4 cells
    products = 2 * (pixel + depth + tower) + (2 + 4) * width * points + read
    assert count_operations(network)["correlation"] - counter.get_total_flops() == 2 * products
    assert time_parts(InferenceNetwork(network), repeats=1)["correlation"] > 0


def test_reference_vit_reads_templates_and_search() -> None:
    torch.manual_seed(0)
    network = InferenceNetwork(build_network(TOY).eval())
    vit = OneStreamViT(network)
    search = frame_inputs(network).search
    one, other = vit.frame(search, vit.tokens_of_templates(2)), vit.frame(search, vit.tokens_of_templates(2))
    assert one[0].shape == (1, 4) and one[1].shape == (1,)
    assert not torch.equal(one[1], other[1])
    # 16 search and 8 template tokens, 12 blocks: attention's four maps, the MLP, and its two products of tokens
    assert vit.operations(2) == 12 * (2 * 24 * 32 * 12 * 32 + 4 * 24 * 24 * 32)


def test_interleaved_runs_every_function_alike() -> None:
    calls: list[str] = []
    seconds = time_interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b"] * 5 and seconds.keys() == {"a", "b"}


@pytest.mark.parametrize(
    "words",
    [
        ["--threads", "0"],
        ["--repeats", "1"],
        ["--frames", "1"],
        ["--processor-time", "--threads", "2"],
        ["--peers-dir", "nowhere"],
    ],
)
def test_mistakes_are_told_in_one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["benchmark", *words]) == 2
    assert capsys.readouterr().err.count("\n") == 1
