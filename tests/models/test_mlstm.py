from __future__ import annotations

import math
import random
from typing import Any

import pytest
import torch
from torch import Tensor

from vil_tracker.models.mlstm import MLSTMState, mlstm_chunkwise, mlstm_parallel, mlstm_recurrent, mlstm_scan

FORMS: dict[str, Any] = {"parallel": mlstm_parallel, "recurrent": mlstm_recurrent, "chunkwise": mlstm_chunkwise}


def random_inputs(
    tokens: int, *, heads: int = 2, width: int = 5, gates: float = 3.0, dtype: torch.dtype = torch.float64
) -> list[Tensor]:
    qkv = [torch.randn(2, heads, tokens, width, dtype=dtype) for _ in range(3)]
    return qkv + [gates * torch.randn(2, heads, tokens, dtype=dtype) for _ in range(2)]


def random_state() -> MLSTMState:
    return mlstm_recurrent(*random_inputs(7), None, True)[1]  # type: ignore[return-value]


def from_the_definition(q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor) -> Tensor:
    """One head of one sample, without any stabiliser but the one in the floor: h as the paper writes it."""
    S, D = q.shape
    h = torch.zeros(S, D, dtype=q.dtype)
    lf = [-math.log1p(math.exp(-float(x))) for x in f]
    for t in range(S):
        log_weights = [float(i[j]) + sum(lf[j + 1 : t + 1]) for j in range(t + 1)]
        m = max(log_weights)
        num, den = torch.zeros(D, dtype=q.dtype), 0.0
        for j in range(t + 1):
            weight = float(q[t] @ k[j]) / math.sqrt(D) * math.exp(log_weights[j] - m)
            num, den = num + weight * v[j], den + weight
        h[t] = num / (max(abs(den), math.exp(-m)) + 1e-6)
    return h


def test_forms_match_the_definition() -> None:
    torch.manual_seed(0)
    q, k, v, i, f = random_inputs(23)
    expected = torch.stack(
        [
            torch.stack([from_the_definition(*(part[b, head] for part in (q, k, v, i, f))) for head in range(2)])
            for b in range(2)
        ]
    )
    for form in FORMS.values():
        torch.testing.assert_close(form(q, k, v, i, f), expected, rtol=0, atol=1e-9)


def test_forms_agree_over_lengths_chunks_and_splits() -> None:
    generator = random.Random(0)
    torch.manual_seed(0)
    for trial in range(30):
        tokens = generator.randint(1, 90)
        inputs = random_inputs(tokens)
        state = random_state() if trial % 2 else None
        h, last = mlstm_recurrent(*inputs, state, True)
        chunk = generator.randint(1, tokens + 5)
        cut = generator.randint(0, tokens)
        candidates = [mlstm_parallel(*inputs, state, True), mlstm_chunkwise(*inputs, state, True, chunk_size=chunk)]
        if 0 < cut < tokens:
            first, middle = mlstm_parallel(*(part[:, :, :cut] for part in inputs), state, True)
            second, end = mlstm_chunkwise(*(part[:, :, cut:] for part in inputs), middle, True, chunk_size=chunk)
            candidates.append((torch.cat([first, second], dim=2), end))  # type: ignore[list-item]
        for other_h, other_last in candidates:
            torch.testing.assert_close(other_h, h, rtol=0, atol=1e-9)
            for ours, theirs in zip(other_last, last, strict=True):  # type: ignore[arg-type]
                torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tokens", [40, 300])
def test_scan_is_the_same_function_for_short_and_long_sequences(tokens: int) -> None:
    torch.manual_seed(1)
    inputs, state = random_inputs(tokens), random_state()
    h, last = mlstm_scan(*inputs, state, True)
    expected, expected_last = mlstm_recurrent(*inputs, state, True)
    torch.testing.assert_close(h, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(last, expected_last, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("m0", [-math.inf, -1e30])
def test_empty_state_is_no_state(m0: float) -> None:
    torch.manual_seed(2)
    inputs = [part.requires_grad_() for part in random_inputs(20)]
    empty = MLSTMState(
        torch.zeros(2, 2, 5, 5, dtype=torch.float64),
        torch.zeros(2, 2, 5, dtype=torch.float64),
        torch.full((2, 2), m0, dtype=torch.float64),
    )
    for form in FORMS.values():
        h = form(*inputs, empty)
        torch.testing.assert_close(h, form(*inputs), rtol=0, atol=1e-12)
        for gradient in torch.autograd.grad(h.sum(), inputs):
            assert gradient.isfinite().all()


@pytest.mark.parametrize("form", ["parallel", "chunkwise"])
@pytest.mark.parametrize("with_state", [False, True])
def test_gradients_are_those_of_the_recurrence(form: str, with_state: bool) -> None:
    """Including the part of h that comes through epsilon and the floor, and the last state's gradients."""
    torch.manual_seed(3)
    inputs = [part.requires_grad_() for part in random_inputs(33)]
    state = MLSTMState(*(part.detach().requires_grad_() for part in random_state())) if with_state else None
    leaves = inputs + list(state or ())
    options = {"chunk_size": 10} if form == "chunkwise" else {}
    gradients = []
    for function, arguments in ((FORMS[form], options), (mlstm_recurrent, {})):
        h, last = function(*inputs, state, True, **arguments)
        torch.manual_seed(4)
        loss = sum((part * torch.randn_like(part)).sum() for part in (h, *last))
        gradients.append(torch.autograd.grad(loss, leaves))
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-8, atol=1e-8)


def test_gradients_are_those_of_finite_differences() -> None:
    torch.manual_seed(5)
    # Small products keep |den| near epsilon and below the floor, where a careless constant stabiliser would show.
    inputs = [part.requires_grad_() for part in random_inputs(6, heads=1, width=2, gates=2.0)]
    inputs[0].data *= 0.1
    assert torch.autograd.gradcheck(mlstm_parallel, inputs)


@pytest.mark.parametrize("form", sorted(FORMS))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_extreme_gates_stay_finite(form: str, dtype: torch.dtype, autocast: bool) -> None:
    torch.manual_seed(6)
    for low, high in ((-50, 50), (-50, -50), (50, 50), (49, 50), (-50, -49)):
        inputs = [part.to(dtype) for part in random_inputs(48, gates=1.0)]
        for gate in inputs[3:]:
            gate.uniform_(low, high) if high > low else gate.fill_(low)
        state = MLSTMState(*(part.float() for part in random_state()))
        for start in (None, state):
            leaves = [part.detach().requires_grad_() for part in inputs]
            with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                h, last = FORMS[form](*leaves, start, True)
            assert h.dtype == dtype
            assert all(part.dtype == torch.float32 for part in last)
            loss = h.float().sum() + sum(part.sum() for part in last)
            tensors = [h, *last, *torch.autograd.grad(loss, leaves)]
            assert all(part.isfinite().all() for part in tensors)


def test_opposite_gates_stay_finite() -> None:
    """Input gates wide open, forget gates shut, and the other way round; far beyond what training reaches."""
    for i_value, f_value in ((50.0, -50.0), (-50.0, 50.0), (200.0, -200.0), (-200.0, 200.0), (-200.0, -200.0)):
        leaves = [part.float() for part in random_inputs(20)]
        leaves[3].fill_(i_value)
        leaves[4].fill_(f_value)
        leaves = [part.requires_grad_() for part in leaves]
        h = mlstm_parallel(*leaves)
        assert isinstance(h, Tensor)
        assert all(part.isfinite().all() for part in (h, *torch.autograd.grad(h.sum(), leaves)))


def test_bfloat16_products_cost_no_more_than_the_inputs_rounding() -> None:
    """After the per-head norm that always follows the cell."""
    torch.manual_seed(7)
    inputs = [torch.randn(2, 4, 120, 48) for _ in range(3)] + [torch.randn(2, 4, 120), torch.randn(2, 4, 120) + 4]
    exact = mlstm_recurrent(*(part.double() for part in inputs))
    rounded = mlstm_parallel(*(part.bfloat16() for part in inputs[:3]), *inputs[3:])

    def normed(h: Any) -> Tensor:
        return torch.nn.functional.layer_norm(h.double(), h.shape[-1:])

    error = (normed(rounded) - normed(exact)).norm() / normed(exact).norm()
    assert error < 0.01


def test_no_gradient_is_needed_for_inference() -> None:
    torch.manual_seed(8)
    inputs = random_inputs(30)
    with torch.inference_mode():
        inside = mlstm_parallel(*inputs)
    torch.testing.assert_close(inside, mlstm_parallel(*inputs), rtol=0, atol=0)


def test_shapes_that_do_not_fit_are_named() -> None:
    q, k, v, i, f = random_inputs(5)
    with pytest.raises(ValueError, match=r"i \(2, 2, 4\)"):
        mlstm_parallel(q, k, v, i[..., :4], f)
    with pytest.raises(ValueError, match="chunk_size"):
        mlstm_chunkwise(q, k, v, i, f, chunk_size=0)
