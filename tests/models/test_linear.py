"""The linear map as a C++ program."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vil_tracker import native
from vil_tracker.models.inference_kernel import LinearKernel
from vil_tracker.models.inference_sublayer import FastLinear

pytestmark = pytest.mark.skipif(native.unavailable_reason("linear") is not None, reason="no C++ compiler")


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [1, 3, 7, 8, 49, 196, 500])
@pytest.mark.parametrize(("inputs", "outputs"), [(192, 768), (384, 192), (48, 16), (5, 208)])
@torch.no_grad()
def test_same_as_a_linear_layer(threads: int, rows: int, inputs: int, outputs: int) -> None:
    """Against float64; rows of a wider tensor, with and without a residual; threads change nothing."""
    torch.manual_seed(rows)
    layer = nn.Linear(inputs, outputs)
    wide = torch.randn(2, rows, inputs + 3)
    x, residual = wide[..., 2:-1], torch.randn(2, rows, outputs)
    expected = layer.double()(x.double())
    program = LinearKernel(layer.weight.float(), layer.bias.float())
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found, with_residual = program(x), program(x, residual)
        torch.set_num_threads(1)
        alone = program(x)
    finally:
        torch.set_num_threads(before)
    assert (found - expected).abs().max() < 2e-6 * inputs**0.5
    assert (with_residual - expected - residual).abs().max() < 2e-6 * inputs**0.5
    assert torch.equal(found, alone)


def test_only_where_it_pays() -> None:
    """float32 on a CPU and widths that fill vectors; elsewhere oneDNN or PyTorch multiplies."""
    weight, bias = torch.randn(20, 8), torch.zeros(20)
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        assert FastLinear(weight, bias, dtype).kernel is None
    assert FastLinear(torch.randn(16, 8), torch.zeros(16), torch.float32, int8=True).kernel is None
