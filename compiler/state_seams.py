"""The seams of layers that carry state from token to token.

State-space and linear-attention layers call functions of kernel libraries by well-known names, which a
modelling file declares with a fallback in torch. Here they say in row ops what they prepare, around one
custom op for the recurrence; compiler/installed_seams.py puts them in their place.
Convolutions need no seam: the importer knows a causal one by its shape.
"""
# ruff: noqa: N803  A, B, C and D are the interfaces' names, given as keywords

from typing import Any

import torch
from torch.nn import functional

from pagedc.compiler.errors import UnsupportedError

Tensor = torch.Tensor


@torch.library.custom_op("pagedc::linear_recurrence", mutates_args=())
def linear_recurrence(
    q: Tensor, k: Tensor, v: Tensor, decay: Tensor, rate: Tensor | None, beta: Tensor | None
) -> Tensor:
    """S = decay ∘ S + k vᵀ, out = Sᵀ q of each head, token by token.

    q, k [1, T, key_heads, K], v [1, T, H, V], decay [1, T or 1, H, 1 or K, 1 or V] → [1, T, H, V]. With rate
    [H, K, V] the factor is exp(decay · rate); with beta [1, T, H], v is beta (v - Sᵀ k) of the decayed S.
    """
    raise RuntimeError("traced only")


@linear_recurrence.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, decay: Tensor, rate: Any, beta: Any) -> Tensor:
    return torch.empty_like(v)


@torch.library.custom_op("pagedc::running_max", mutates_args=())
def running_max(fade: Tensor, x: Tensor, initial: float) -> Tensor:
    """m = max(m + fade, x), token by token: fade [1, T or 1, C], x [1, T, C] → [1, T, C]."""
    raise RuntimeError("traced only")


@running_max.register_fake
def _(fade: Tensor, x: Tensor, initial: float) -> Tensor:
    return torch.empty_like(x)


def delayed(x: Tensor) -> Tensor:
    """[1, T, C]: what the token before had, 0 at first."""
    return functional.pad(x, (0, 0, 1, -1))


def selective_scan(
    u: Tensor,  # [1, D, T]
    delta: Tensor,  # [1, D, T]
    A: Tensor,  # [D, N]
    B: Tensor,  # [1, N, T]
    C: Tensor,  # [1, N, T]
    D: Tensor | None = None,  # [D]
    z: Tensor | None = None,  # [1, D, T]
    delta_bias: Tensor | None = None,  # [D]
    delta_softplus: bool = False,
    return_last_state: bool = False,
    **_: Any,
) -> Any:
    """`selective_scan_fn` of mamba_ssm: each channel has N states of its own decays."""
    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = functional.softplus(delta)
    q, k = (x.transpose(1, 2).unsqueeze(2) for x in (C, B))
    v, decay = (x.transpose(1, 2).unsqueeze(2) for x in (u * delta, delta))
    out = torch.ops.pagedc.linear_recurrence(q, k, v, decay.unsqueeze(3), A.t().unsqueeze(0), None)
    out = out.squeeze(2).transpose(1, 2)
    if D is not None:
        out = out + u * D[:, None]
    if z is not None:
        out = out * functional.silu(z)
    return (out, None) if return_last_state else out


def chunk_scan(
    x: Tensor,  # [1, T, H, P]
    dt: Tensor,  # [1, T, H]
    A: Tensor,  # [H]
    B: Tensor,  # [1, T, groups, N]
    C: Tensor,  # [1, T, groups, N]
    chunk_size: int,
    D: Tensor | None = None,  # [H] or [H, P]
    z: Tensor | None = None,  # [1, T, H, P]
    dt_bias: Tensor | None = None,  # [H]
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, float("inf")),
    return_final_states: bool = False,
    **_: Any,
) -> Any:
    """`mamba_chunk_scan_combined` of mamba_ssm: each head has one decay."""
    if dt_bias is not None:
        dt = dt + dt_bias
    if dt_softplus:
        dt = functional.softplus(dt)
    low, high = dt_limit
    if low > 0 or high < float("inf"):
        dt = torch.clamp(dt, low, high)
    decay = torch.exp(A * dt)[..., None, None]
    out = torch.ops.pagedc.linear_recurrence(C, B, x * dt.unsqueeze(3), decay, None, None)
    if D is not None:
        out = out + x * (D if D.ndim == 2 else D.unsqueeze(1))
    if z is not None:
        out = out * functional.silu(z)
    return (out, None) if return_final_states else out


def gated_delta_rule(
    query: Tensor,  # [1, T, key_heads, K]
    key: Tensor,  # [1, T, key_heads, K]
    value: Tensor,  # [1, T, H, V]
    g: Tensor,  # [1, T, H], or of each element of a key, [1, T, H, K]: log of the decay
    beta: Tensor,  # [1, T, H]
    scale: float | None = None,
    use_qk_l2norm_in_kernel: bool = False,
    **_: Any,
) -> tuple[Tensor, None]:
    """`chunk_gated_delta_rule` and `chunk_kda` of fla."""
    if use_qk_l2norm_in_kernel:
        query, key = (x * torch.rsqrt((x * x).sum(-1, keepdim=True) + 1e-6) for x in (query, key))
    query = query * (query.shape[-1] ** -0.5 if scale is None else scale)
    decay = torch.exp(g)
    decay = decay[..., None, None] if g.ndim == 3 else decay.unsqueeze(4)
    return torch.ops.pagedc.linear_recurrence(query, key, value, decay, None, beta), None


def weighted_average(
    time_decay: Tensor,  # [D]
    time_first: Tensor,  # [D]
    key: Tensor,  # [1, T, D]
    value: Tensor,  # [1, T, D]
    state: Any = None,
    return_state: bool = False,
    **_: Any,
) -> tuple[Tensor, None]:
    """Values weighted by e^key, each token before fading by e^-e^time_decay, the newest by e^time_first."""
    if state is not None:
        raise UnsupportedError("rwkv_linear_attention: a state that the model itself provides")
    fade = -torch.exp(time_decay)
    largest = torch.ops.pagedc.running_max(fade[None, None], key, -1e38)
    before = delayed(largest)
    decay = torch.exp(torch.clamp(fade + before - largest, max=0))  # both sums are relative to e^largest
    weight = torch.exp(key - largest)
    one = key.new_ones(1, 1, 1, 1)
    update, decay = torch.cat([weight * value, weight], -1), torch.cat([decay, decay], -1)
    sums = torch.ops.pagedc.linear_recurrence(
        one, one, update.unsqueeze(2), decay[:, :, None, None], None, None
    )
    total, count = delayed(sums.squeeze(2)).chunk(2, -1)
    before = torch.where(count > 0, before, -1e38)
    newest = key + time_first
    largest = torch.maximum(before, newest)
    old, new = torch.exp(before - largest), torch.exp(newest - largest)
    return (old * total + new * value) / (old * count + new), None


def matrix_memory(
    self: Any,
    query: Tensor,  # [1, H, T, K]
    key: Tensor,  # [1, H, T, K]
    value: Tensor,  # [1, H, T, V]
    igate: Tensor,  # [1, H, T]: log of the update's weight
    fgate: Tensor,  # [1, H, T]: the decay is its sigmoid
    c_initial: Any = None,
    n_initial: Any = None,
    m_initial: Any = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """An mLSTM: out = Cᵀq / max(|nᵀq|, 1) with C = f C + i k vᵀ and n = f n + i k, all relative to e^m."""
    if c_initial is not None:
        raise UnsupportedError(f"{type(self).__name__}: a state that the model itself provides")
    q, k, v = (x.transpose(1, 2) for x in (query, key, value))
    gain, fade = igate.transpose(1, 2), functional.logsigmoid(fgate).transpose(1, 2)
    largest = torch.ops.pagedc.running_max(fade, gain, 0.0)
    decay = torch.exp(torch.clamp(fade + delayed(largest) - largest, max=0))
    weight = torch.exp(gain - largest).unsqueeze(3)
    update = torch.cat([v * weight, weight], -1)
    q = q * query.shape[-1] ** -0.5
    sums = torch.ops.pagedc.linear_recurrence(q, k, update, decay[..., None, None], None, None)
    total, count = sums[..., :-1], sums[..., -1:]
    out = total / (torch.maximum(count.abs(), torch.exp(-largest).unsqueeze(3)) + self.config.eps)
    return out.transpose(1, 2), None


def gated_sum(
    self: Any,
    hidden_states: Tensor,  # [1, T, D]
    recurrent_gate: Tensor,  # [1, T, D]
    reset: Tensor,  # [1, T, 1] where a sequence starts
    recurrent_states: Tensor | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """The scan of a gated linear recurrent unit: h = gate · h + x of each channel."""
    one = hidden_states.new_ones(1, 1, 1, 1)
    decay = (recurrent_gate * ~reset)[:, :, None, None]
    out = torch.ops.pagedc.linear_recurrence(one, one, hidden_states.unsqueeze(2), decay, None, None)
    return out.squeeze(2), None


def attention_by_blocks(
    self: Any,
    hidden_states: Tensor,  # [1, T, K]
    position_embeddings: Any,
    attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Linear attention with a decay a head, computed in blocks of tokens: S = e^-slope_rate S + k vᵀ."""
    if attention_mask is not None or past_key_values is not None:
        raise UnsupportedError(f"{type(self).__name__}: a mask or a state that the model itself provides")
    shape = (*hidden_states.shape[:2], self.num_attention_heads, 3 * self.head_dim)
    q, k, v = self.act_fn(self.qkv_proj(hidden_states)).view(shape).chunk(3, dim=3)
    decay = torch.exp(-self.slope_rate).unsqueeze(0).unsqueeze(0)  # [1, 1, H, 1, 1]
    out = torch.ops.pagedc.linear_recurrence(q, k, v, decay, None, None)
    out = self.norm(out.flatten(2))
    return self.out_proj(torch.sigmoid(self.output_gate(hidden_states)) * out), None
