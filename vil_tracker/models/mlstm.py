"""The mLSTM cell (Beck et al., "xLSTM: Extended Long Short-Term Memory", 2024): three exact forms of one function.

Shapes: B batch, H heads, S tokens in scan order, D channels per head. The cell keeps a matrix memory C (D x D), a
normaliser n (D) and a stabiliser m (scalar) per head:

    lf = logsigmoid(f);  k' = k / sqrt(D)
    m_t = max(lf_t + m_{t-1}, i_t)
    C_t = exp(lf_t + m_{t-1} - m_t) C_{t-1} + exp(i_t - m_t) k'_t v_t^T           (n_t alike, without v)
    h_t = q_t C_t / (max(|q_t . n_t|, exp(-m_t)) + 1e-6)

All forms accept an initial state and can return the last one, so a sequence may be cut anywhere and continued.
Gates, cumulative sums, decays and states are computed in float32 (float64 for float64 inputs), whatever
the autocast state. The S x S products of the parallel form take the dtype of q, k and v: bfloat16 inputs gain from
bfloat16 products, and what they lose is of the size of the inputs' own rounding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

EPS = 1e-6
DEFAULT_CHUNK = 128
# Up to this many tokens one S x S decay matrix is cheaper than carrying a D x D memory from chunk to chunk.
PARALLEL_MAX_TOKENS = 192


class MLSTMState(NamedTuple):
    """Memory after a scan: ``C`` (B, H, D, D) with keys in rows, ``n`` (B, H, D), ``m`` (B, H); float32 or float64."""

    C: Tensor
    n: Tensor
    m: Tensor


def _floor(m: Tensor) -> Tensor:
    """exp(-m), the lower bound of the denominator, kept finite: beyond the bound h is zero to working precision."""
    return torch.exp(torch.clamp(-m, max=0.9 * math.log(torch.finfo(m.dtype).max)))


def _running_max(x: Tensor) -> Tensor:
    """cummax over the last axis. ONNX has no such operator: a graph gets maxima over spans that double."""
    if not torch.compiler.is_compiling():
        return torch.cummax(x, dim=-1).values
    span, size = 1, x.shape[-1]
    while span < size:
        x = torch.maximum(x, F.pad(x[..., :-span], (span, 0), value=-math.inf))
        span *= 2
    return x


def _decayed_products(
    q: Tensor, k: Tensor, v: Tensor, c_BHS: Tensor, M_BHS: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Numerator W v and denominator W 1 of W = (q k^T) * exp(c_j - M_t) for j <= t, with W and the decay."""
    S = q.shape[-2]
    # exp(-inf) keeps the future out; c_j - M_t is at most 0 elsewhere.
    future = torch.full((S, S), -math.inf, dtype=c_BHS.dtype, device=q.device).triu_(1)
    decay_BHSS = (c_BHS[..., None, :] - M_BHS[..., :, None]).add_(future).exp_().to(q.dtype)
    W_BHSS = (q @ k.transpose(-1, -2)).mul_(decay_BHSS)
    return W_BHSS @ v, W_BHSS.sum(-1), W_BHSS, decay_BHSS


class _DecayedProducts(torch.autograd.Function):
    """:func:`_decayed_products` with a backward of one pass over the S x S matrix.

    M is a constant. W depends on c_j as it does on a scale of k_j, so c's gradient is k_j . dk_j and needs no
    reduction over the S x S matrix.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, c: Tensor, M: Tensor) -> tuple[Tensor, Tensor]:
        num, den, W, decay = _decayed_products(q, k, v, c, M)
        ctx.save_for_backward(q, k, v, W, decay)
        ctx.gate_dtype = c.dtype
        return num, den

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_num: Tensor, d_den: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, W, decay = ctx.saved_tensors
        d_qk = (d_num @ v.transpose(-1, -2)).add_(d_den[..., None]).mul_(decay)
        d_k = d_qk.transpose(-1, -2) @ q
        d_c = (k.to(ctx.gate_dtype) * d_k).sum(-1)
        return d_qk @ k, d_k, W.transpose(-1, -2) @ d_num, d_c, None


def _parallel(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: MLSTMState | None, return_state: bool
) -> tuple[Tensor, MLSTMState | None]:
    """One block of the parallel form; gates already in the cell's dtype, autocast off.

    With c = i - b and M = cummax(c) joined with m0, the stabiliser is m = b + M and the decay exp(c_j - M_t).
    Numerator, denominator and floor share the factor exp(-M), so h depends on M only through epsilon: M is detached
    everywhere but there, which leaves the gradient exact and spares a reduction over the S x S matrix.
    """
    D = q.shape[-1]
    dtype = i.dtype
    b_BHS = torch.cumsum(F.logsigmoid(f), dim=-1)
    c_BHS = i - b_BHS
    M_BHS = _running_max(c_BHS)
    if state is not None:
        M_BHS = torch.maximum(M_BHS, state.m[..., None])
    M_const = M_BHS.detach()

    c_scaled = c_BHS - 0.5 * math.log(D)  # the factor 1/sqrt(D) of k rides in the exponent
    if torch.is_grad_enabled():
        num_BHSD, den_BHS = _DecayedProducts.apply(q, k, v, c_scaled, M_const)
    else:
        num_BHSD, den_BHS, _, _ = _decayed_products(q, k, v, c_scaled, M_const)
    num_BHSD, den_BHS = num_BHSD.to(dtype), den_BHS.to(dtype)
    if state is not None:
        carry_BHS = torch.exp(state.m[..., None] - M_const)
        qc_BHSD = q.to(dtype) * carry_BHS[..., None]
        num_BHSD = num_BHSD + qc_BHSD @ state.C
        den_BHS = den_BHS + (qc_BHSD @ state.n[..., None]).squeeze(-1)
    scale_BHS = torch.maximum(den_BHS.abs(), _floor(b_BHS + M_const)) + EPS * torch.exp(M_BHS - M_const)
    h_BHSD = num_BHSD * scale_BHS.reciprocal()[..., None]
    if not return_state:
        return h_BHSD, None

    M_BH = M_BHS[..., -1]
    k_BHSD = k.to(dtype) * torch.exp(c_scaled - M_BH[..., None])[..., None]
    C = k_BHSD.transpose(-1, -2) @ v.to(dtype)
    n = k_BHSD.sum(-2)
    if state is not None:
        carry_BH = torch.exp(state.m - M_BH)
        C = C + carry_BH[..., None, None] * state.C
        n = n + carry_BH[..., None] * state.n
    return h_BHSD, MLSTMState(C, n, b_BHS[..., -1] + M_BH)


def _chunkwise(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: MLSTMState | None, return_state: bool, chunk_size: int
) -> tuple[Tensor, MLSTMState | None]:
    S = q.shape[-2]
    outputs = []
    for start in range(0, S, chunk_size):
        part = slice(start, min(start + chunk_size, S))
        last = part.stop == S
        h, state = _parallel(
            q[:, :, part], k[:, :, part], v[:, :, part], i[:, :, part], f[:, :, part], state, return_state or not last
        )
        outputs.append(h)
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-2)), state


def _recurrent(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: MLSTMState | None, return_state: bool
) -> tuple[Tensor, MLSTMState | None]:
    B, H, S, D = q.shape
    q, k, v = q.to(i.dtype), k.to(i.dtype), v.to(i.dtype)
    if state is None:
        C, n, m = q.new_zeros(B, H, D, D), q.new_zeros(B, H, D), q.new_full((B, H), -math.inf)
    else:
        C, n, m = state
    lf = F.logsigmoid(f)
    k = k / math.sqrt(D)
    outputs = []
    for t in range(S):
        m_next = torch.maximum(lf[..., t] + m, i[..., t])
        keep = torch.exp(lf[..., t] + m - m_next)
        write_k = torch.exp(i[..., t] - m_next)[..., None] * k[:, :, t]
        C = keep[..., None, None] * C + write_k[..., :, None] * v[:, :, t, None, :]
        n = keep[..., None] * n + write_k
        m = m_next
        num = (q[:, :, t, None, :] @ C).squeeze(-2)
        den = (q[:, :, t] * n).sum(-1)
        outputs.append(num / (torch.maximum(den.abs(), _floor(m)) + EPS)[..., None])
    return torch.stack(outputs, dim=-2), MLSTMState(C, n, m) if return_state else None


def _run(
    form: Callable[..., tuple[Tensor, MLSTMState | None]],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    state: MLSTMState | None,
    *options: bool | int,
) -> tuple[Tensor, MLSTMState | None]:
    """Check shapes, leave autocast, bring gates and state to the cell's dtype, run, and cast h back to q's dtype."""
    if not (q.dim() == 4 and q.shape == k.shape == v.shape and i.shape == f.shape == q.shape[:-1]):
        raise ValueError(
            "mLSTM inputs must be q, k, v (B, H, S, D) and i, f (B, H, S); got "
            f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}, i {tuple(i.shape)}, f {tuple(f.shape)}"
        )
    dtype = torch.float64 if q.dtype == torch.float64 else torch.float32
    product_dtype = torch.bfloat16 if q.dtype == torch.bfloat16 else dtype
    if state is not None:
        state = MLSTMState(*(part.to(dtype) for part in state))
    with torch.autocast(q.device.type, enabled=False):
        q_, k_, v_ = (part.to(product_dtype) for part in (q, k, v))
        h, last = form(q_, k_, v_, i.to(dtype), f.to(dtype), state, *options)
    return h.to(q.dtype), last


def mlstm_parallel(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: MLSTMState | None = None, return_state: bool = False
) -> Tensor | tuple[Tensor, MLSTMState | None]:
    """Quadratic form: the whole sequence as one masked S x S product.

    Args:
        q, k, v: (B, H, S, D); k not yet scaled.
        i, f: pre-activations of the input and forget gates, (B, H, S).
        state: memory to start from; None is an empty one.
        return_state: also return the memory after the last token.

    Returns:
        h (B, H, S, D) in q's dtype, or (h, state).

    Raises:
        ValueError: shapes that do not fit together.
    """
    h, last = _run(_parallel, q, k, v, i, f, state, return_state)
    return (h, last) if return_state else h


def mlstm_recurrent(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: MLSTMState | None = None, return_state: bool = False
) -> Tensor | tuple[Tensor, MLSTMState | None]:
    """Step by step, as the equations are written; arguments and result as in :func:`mlstm_parallel`."""
    h, last = _run(_recurrent, q, k, v, i, f, state, return_state)
    return (h, last) if return_state else h


def mlstm_chunkwise(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    i: Tensor,
    f: Tensor,
    state: MLSTMState | None = None,
    return_state: bool = False,
    chunk_size: int = DEFAULT_CHUNK,
) -> Tensor | tuple[Tensor, MLSTMState | None]:
    """Parallel within chunks of ``chunk_size`` tokens (the last may be shorter), recurrent between them.

    Linear in S. Arguments and result as in :func:`mlstm_parallel`.
    """
    if chunk_size < 1:
        raise ValueError(f"chunk_size is {chunk_size}, expected at least 1")
    h, last = _run(_chunkwise, q, k, v, i, f, state, return_state, chunk_size)
    return (h, last) if return_state else h


def mlstm_scan(
    q: Tensor, k: Tensor, v: Tensor, i: Tensor, f: Tensor, state: MLSTMState | None = None, return_state: bool = False
) -> tuple[Tensor, MLSTMState | None]:
    """The form that is fastest for this many tokens; the state is None unless asked for."""
    S = q.shape[-2]
    chunk_size = S if S <= PARALLEL_MAX_TOKENS else DEFAULT_CHUNK
    return _run(_chunkwise, q, k, v, i, f, state, return_state, chunk_size)
