"""The two seams through which a traced module hands over its anchors.

They are transformers' own attention and experts interfaces, under the name "pagedc"; each call becomes one
custom op in the trace. Importing this module registers them.
"""

from typing import Any

import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pagedc.compiler.errors import UnsupportedError

NAME = "pagedc"


@torch.library.custom_op("pagedc::attention", mutates_args=())
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    sinks: torch.Tensor | None,
    scale: float,
    window: int,
    softcap: float,
) -> torch.Tensor:
    """q [1, H, T, D], k [1, Hkv, T, D], v [1, Hkv, T, Dv] → [1, T, H, Dv]; a causal attention to trace."""
    raise RuntimeError("traced only")


@attention.register_fake
def _(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sinks: Any, scale: float, window: int, softcap: float
) -> torch.Tensor:
    return q.new_empty(q.shape[0], q.shape[2], q.shape[1], v.shape[3])


@torch.library.custom_op("pagedc::grouped_linear", mutates_args=())
def grouped_linear(x: torch.Tensor, index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """x [T, K] or [T, top_k, K], index [T, top_k], weight [E, N, K] → [T, top_k, N], a matrix a slot."""
    raise RuntimeError("traced only")


@grouped_linear.register_fake
def _(x: torch.Tensor, index: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x.new_empty(*index.shape, weight.shape[1])


@torch.library.custom_op("pagedc::grouped_bias", mutates_args=())
def grouped_bias(index: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """index [T, top_k], bias [E, N] → [T, top_k, N]."""
    raise RuntimeError("traced only")


@grouped_bias.register_fake
def _(index: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    return bias.new_empty(*index.shape, bias.shape[1])


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    is_causal: bool | None = None,
    position_bias: Any = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """What a module calls in place of its attention."""
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    name = type(module).__name__
    if not causal:
        raise UnsupportedError(f"{name}: attention that is not causal; pagedc compiles decoders")
    if position_bias is not None:
        raise UnsupportedError(f"{name}: attention with a position bias")
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    out = torch.ops.pagedc.attention(
        query, key, value, s_aux, scale, int(sliding_window or 0), float(softcap or 0.0)
    )
    return out, None


def experts_forward(
    self: Any,
    hidden_states: torch.Tensor,
    top_k_index: torch.Tensor,
    top_k_weights: torch.Tensor,
    *_: Any,
    **__: Any,
) -> torch.Tensor:
    """What a module calls in place of its loop over experts, by `use_experts_implementation`'s flags."""

    def expert_weight(weight: torch.Tensor) -> torch.Tensor:
        return weight.transpose(1, 2) if self.is_transposed else weight

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        out: torch.Tensor = torch.ops.pagedc.grouped_linear(
            x, top_k_index, expert_weight(getattr(self, name))
        )
        if self.has_bias:
            out = out + torch.ops.pagedc.grouped_bias(top_k_index, getattr(self, name + "_bias"))
        return out

    if getattr(self, "has_post_expert_norm", False):
        raise UnsupportedError(f"{type(self).__name__}: a norm after each expert")
    if self.has_gate:
        hidden = self._apply_gate(linear(hidden_states, "gate_up_proj"))
    else:
        hidden = self.act_fn(linear(hidden_states, "up_proj"))
    out = linear(hidden, "down_proj")
    weighted: torch.Tensor = out * top_k_weights.to(out.dtype).unsqueeze(-1)
    return weighted.sum(1).to(hidden_states.dtype)


ALL_ATTENTION_FUNCTIONS.register(NAME, attention_forward)
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, lambda *_, **__: None)
ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)
