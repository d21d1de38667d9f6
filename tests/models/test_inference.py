from __future__ import annotations

import copy
import gc
import os
import subprocess
import sys
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vil_tracker.config import ModelConfig
from vil_tracker.errors import UserError
from vil_tracker.models.film_temporal import TemporalContext, updated_context
from vil_tracker.models.inference import InferenceNetwork, prepare_for_inference
from vil_tracker.models.inference_kernel import GroupNormGelu
from vil_tracker.models.inference_sublayer import FastSublayer, chunk_length
from vil_tracker.models.network import NetworkOutput, ViLTrackerNet, build_network
from vil_tracker.native import unavailable_reason

HAS_KERNEL = unavailable_reason("sublayer") is None


def network(dtype: torch.dtype = torch.float32, **changes: object) -> ViLTrackerNet:
    """A network in which no parameter has its trivial initial value."""
    torch.manual_seed(0)
    settings = {"dim": 64, "depth": 4, "template_size": 64, "search_size": 128, "modulation_interval": 2}
    config = ModelConfig(**{"name": "test", "head_channels": 16, **settings, **changes})  # type: ignore[arg-type]
    net = build_network(config).to(dtype).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return net


def inputs(net: ViLTrackerNet, size: tuple[int, int], batch: int = 1) -> tuple[Tensor, Tensor, Tensor, TemporalContext]:
    dtype, side = net.type_embed.dtype, net.config.template_size
    boxes = torch.tensor([0.25, 0.3, 0.75, 0.6], dtype=dtype).expand(batch, 2, 4)
    grid = (size[0] // 16, size[1] // 16)
    tokens = torch.randn(batch, grid[0] * grid[1], net.config.dim, dtype=dtype)
    context = updated_context(None, tokens, grid, torch.tensor([[50.0, 50.0, 40.0]] * batch))
    return torch.randn(batch, 2, 3, side, side, dtype=dtype), boxes, torch.randn(batch, 3, *size, dtype=dtype), context


def assert_close(found: NetworkOutput, expected: NetworkOutput, tolerance: float) -> None:
    for ours, theirs in zip(found[:3], expected[:3], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(found.features, expected.features, rtol=0, atol=10 * tolerance)  # values up to 5


@pytest.mark.parametrize(
    ("dtype", "kernel", "tolerance"),
    [(torch.float64, False, 1e-10), (torch.float32, False, 1e-5), (torch.float32, True, 1e-5)],
    ids=["float64", "float32", "kernel"],
)
@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize(
    ("size", "batch"), [((128, 128), 1), ((192, 192), 2), ((256, 256), 1), ((176, 176), 1), ((272, 272), 1)], ids=str
)
@torch.no_grad()
def test_same_function(
    stem: str, size: tuple[int, int], batch: int, dtype: torch.dtype, kernel: bool, tolerance: float
) -> None:
    """64, 144, 256, 121 and 289 tokens: one chunk, several, and numbers that no chunk length divides."""
    net = network(dtype, stem=stem)
    prepared = InferenceNetwork(net, kernel=kernel)
    assert all((sublayer.kernel is not None) == (kernel and HAS_KERNEL) for sublayer in prepared.sublayers)
    crops, boxes, search, context = inputs(net, size, batch)
    memory = prepared.encode_templates(crops, boxes)
    assert_close(prepared.forward_search(search, memory), net.forward_search(search, memory), tolerance)
    expected = net.forward_search(search, memory, context)
    found = prepared.forward_search(search, memory, context)
    assert_close(found, expected, tolerance)
    for ours, theirs in zip(prepared.decode(found), net.decode(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bias", [-8.0, 12.0])
@torch.no_grad()
def test_any_decay(bias: float) -> None:
    """Forget gates that all but close or stay open, on which the decay across the crop leaves the number format."""
    net = network(torch.float64)
    for sublayer in net.backbone.sublayers:
        sublayer.layer.mlstm_cell.fgate.bias.fill_(bias)
    crops, boxes, search, context = inputs(net, (128, 256))
    memory = net.encode_templates(crops, boxes)
    expected = net.forward_search(search, memory, context)
    assert_close(InferenceNetwork(net).forward_search(search, memory, context), expected, 1e-10)


@pytest.mark.skipif(not HAS_KERNEL, reason="no C++ compiler")
@pytest.mark.parametrize("bias", [-8.0, 3.0, 12.0], ids=["strong decay", "weak decay", "none"])
@pytest.mark.parametrize(("size", "batch", "dim"), [((80, 1024), 2, 64), ((512, 512), 1, 192)], ids=str)
@torch.no_grad()
def test_kernel_against_float64(size: tuple[int, int], batch: int, dim: int, bias: float) -> None:
    """A grid wider than high, 1,024 tokens, heads of 32 and 96 channels: no further from float64 than PyTorch is."""
    net = network(torch.float64, dim=dim)
    for sublayer in net.backbone.sublayers:
        sublayer.layer.mlstm_cell.fgate.bias.fill_(bias)
    crops, boxes, search, _ = inputs(net, size, batch)
    expected = net.forward_search(search, net.encode_templates(crops, boxes)).features
    net = net.float()
    memory = net.encode_templates(crops.float(), boxes.float())
    found = InferenceNetwork(net).forward_search(search.float(), memory).features
    ordinary = net.forward_search(search.float(), memory).features
    assert (found - expected).abs().mean() < 1.5 * (ordinary - expected).abs().mean()
    assert (found - expected).abs().max() < 2 * (ordinary - expected).abs().max()


@pytest.mark.skipif(not HAS_KERNEL, reason="no C++ compiler")
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 2**-8)], ids=str)
@pytest.mark.parametrize(
    ("batch", "channels", "groups", "side"),
    [(1, 24, 6, 112), (2, 48, 12, 56), (3, 144, 12, 15), (1, 72, 12, 14), (1, 288, 12, 2)],
)
def test_group_norm_and_gelu(
    batch: int, channels: int, groups: int, side: int, dtype: torch.dtype, tolerance: float
) -> None:
    """Channels that fill vectors alone, or two pixels at a time; means far from 0."""
    torch.manual_seed(0)
    image = 3 * torch.randn(batch, channels, side, side) + torch.linspace(-20, 20, channels)[:, None, None]
    image = image.to(dtype).contiguous(memory_format=torch.channels_last)
    norm = nn.GroupNorm(groups, channels).requires_grad_(False)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    nn.init.normal_(norm.bias)
    norm.to(dtype)
    found = GroupNormGelu([norm], dtype)(image.clone())
    normed = norm.double()(image.double())
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), F.gelu(normed), rtol=tolerance, atol=tolerance)


@pytest.mark.skipif(not HAS_KERNEL, reason="no C++ compiler")
def test_group_norm_without_whole_vectors() -> None:
    """18 channels of an odd number of pixels fill no vectors of 4, 8 or 16 numbers: PyTorch computes it."""
    image = torch.randn(2, 18, 7, 7).contiguous(memory_format=torch.channels_last)
    expected = F.gelu(F.group_norm(image, 6, eps=1e-5))
    assert torch.equal(GroupNormGelu([nn.GroupNorm(6, 18)], torch.float32)(image), expected)


@pytest.mark.skipif(not HAS_KERNEL, reason="no C++ compiler")
def test_group_norm_of_any_number_of_threads_and_far_values() -> None:
    image = torch.randn(2, 24, 40, 40).contiguous(memory_format=torch.channels_last)
    image[0, 0, 0, 0] = 1e4  # its neighbours' GELU is then that of a value near 0, its own that of a large one
    norm = GroupNormGelu([nn.GroupNorm(6, 24)], torch.float32)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(norm(image.clone(memory_format=torch.preserve_format)))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    expected = F.gelu(F.group_norm(image.double(), 6, eps=1e-5))
    torch.testing.assert_close(results[0].double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not HAS_KERNEL, reason="no C++ compiler")
@torch.no_grad()
def test_kernel_gives_the_same_for_any_number_of_threads() -> None:
    net = network()
    crops, boxes, _, _ = inputs(net, (192, 192), batch=3)
    memory = net.encode_templates(crops, boxes).states[0]
    kernel = InferenceNetwork(net).sublayers[0].kernel
    assert kernel is not None
    tokens = torch.randn(3, 144, 256)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(kernel(tokens, (12, 12), memory))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.skipif(not HAS_KERNEL, reason="no C++ compiler")
@pytest.mark.parametrize("bias", [-8.0, 3.0], ids=["strong decay", "weak decay"])
@pytest.mark.parametrize("grid", [(7, 7), (11, 11), (14, 14), (5, 13)], ids=str)
@torch.no_grad()
def test_kernel_with_bfloat16_factors(grid: tuple[int, int], bias: float) -> None:
    """49, 121, 196 and 65 tokens, so that the last chunk is odd, short or a single token, forwards and backwards.

    A bfloat16 is off by 2e-3 at most, on average by 1e-3: so are the results, and more only where a sum cancels.
    """
    net = network(dim=192)
    for sublayer in net.backbone.sublayers:
        sublayer.layer.mlstm_cell.fgate.bias.fill_(bias)
    crops, boxes, _, _ = inputs(net, (192, 192), batch=2)
    memory = net.encode_templates(crops, boxes)
    tokens = torch.randn(2, grid[0] * grid[1], 768).bfloat16()
    for sublayer, state in zip(InferenceNetwork(net).sublayers[:2], memory.states, strict=False):
        assert sublayer.kernel is not None
        expected = sublayer.kernel(tokens.float(), grid, state)
        difference = (sublayer.kernel(tokens, grid, state).float() - expected).abs()
        assert difference.mean() < 4e-3 * expected.abs().mean()
        assert difference.max() < 0.1 * expected.abs().max()


@torch.no_grad()
def test_trained_decays_stay_in_the_fast_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """exp(-1.3) per token, as in trained networks: exp(-330) over the crop, exp(-84) over a chunk."""

    def fail(*_: object) -> None:
        raise AssertionError("the ordinary form was taken")

    monkeypatch.setattr(FastSublayer, "any_decay", fail)
    net = network(torch.float64)
    for sublayer in net.backbone.sublayers:
        sublayer.layer.mlstm_cell.fgate.bias.fill_(-1.0)
    crops, boxes, search, context = inputs(net, (256, 256))
    memory = net.encode_templates(crops, boxes)
    expected = net.forward_search(search, memory, context)
    assert_close(InferenceNetwork(net).forward_search(search, memory, context), expected, 1e-10)

    expected = net.forward_search(search, memory)
    single = InferenceNetwork(net.float())
    memory = single.encode_templates(crops.float(), boxes.float())
    found = single.forward_search(search.float(), memory)
    assert (found.features - expected.features).abs().mean() < 5e-5  # values up to 5; a few are ratios of small sums


@pytest.mark.parametrize("kernel", [False, True])
@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
@torch.no_grad()
def test_lower_precision_stays_near(precision: str, kernel: bool) -> None:
    net = network()
    crops, boxes, search, context = inputs(net, (192, 192))
    prepared = InferenceNetwork(net, precision, kernel=kernel)  # type: ignore[arg-type]
    memory = prepared.encode_templates(crops, boxes)
    found, expected = prepared.forward_search(search, memory, context), net.forward_search(search, memory, context)
    assert found.features.dtype == found.score_logits.dtype == torch.float32
    spread = expected.features.std()
    assert (found.features - expected.features).abs().mean() < 0.05 * spread
    assert (found.size - expected.size).abs().max() < 0.05


@pytest.mark.parametrize("limit", ["AVX2", "DEFAULT"])
def test_int8_products_are_exact_on_any_processor(limit: str) -> None:
    """Whole numbers that fill their range: without VNNI, two products added up saturate at 16 bits."""
    code = (
        "import torch; from vil_tracker.models.inference_sublayer import FastLinear\n"
        "x, w = torch.full((32, 192), 127.0), torch.full((96, 192), -64.0)\n"
        "y = FastLinear(w, torch.ones(96), torch.float32, int8=True)(x)\n"
        "assert (y - (1 - 192 * 127 * 64)).abs().max() < 1, y"
    )
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "ONEDNN_MAX_CPU_ISA": limit})


def test_prepared_once_while_in_use_and_anew_after_a_change() -> None:
    net = network()
    first = prepare_for_inference(net)
    assert prepare_for_inference(net) is first
    assert prepare_for_inference(copy.deepcopy(net)) is not first
    with torch.no_grad():
        net.head.score[-1].bias.add_(1)
    assert prepare_for_inference(net) is not first


def test_nothing_outlives_its_users() -> None:
    net = network()
    prepared = prepare_for_inference(net)
    alive = [weakref.ref(net), weakref.ref(prepared)]
    del net, prepared
    gc.collect()
    assert [reference() for reference in alive] == [None, None]


def test_int8_says_where_it_runs() -> None:
    with pytest.raises(UserError, match="CPU only"):
        InferenceNetwork(network().to("meta"), "int8")


@pytest.mark.parametrize(("tokens", "length"), [(64, 64), (144, 72), (256, 64), (576, 64), (121, 121), (169, 169)])
def test_chunk_length(tokens: int, length: int) -> None:
    assert chunk_length(tokens) == length and tokens % length == 0


def test_chunk_length_of_a_number_without_divisors() -> None:
    assert chunk_length(289) == 0


@pytest.mark.parametrize("bias", [-8.0, 3.0], ids=["strong decay", "weak decay"])
@torch.no_grad()
def test_compiled_program_stands_back_where_it_would_be_wrong(bias: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program that is compiled, run as it is written."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    net = network(torch.float64)
    for sublayer in net.backbone.sublayers:
        sublayer.layer.mlstm_cell.fgate.bias.fill_(bias)
    crops, boxes, search, context = inputs(net, (256, 256))
    memory = net.encode_templates(crops, boxes)
    found = InferenceNetwork(net, compiled=True).forward_search(search, memory, context)
    assert_close(found, net.forward_search(search, memory, context), 1e-10)
