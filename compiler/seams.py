"""The two seams through which a traced module hands over its anchors.

They are transformers' own attention and experts interfaces, under the name "pagedc"; each call becomes one
custom op in the trace. Importing this module registers them.
"""

from typing import Any

import torch
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, eager_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from pagedc.compiler.errors import UnsupportedError

NAME = "pagedc"


@torch.library.custom_op("pagedc::attention", mutates_args=())
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    sinks: torch.Tensor | None,
    mask: torch.Tensor | None,
    scale: float,
    window: int,
    softcap: float,
    position_bias: torch.Tensor | None = None,
) -> torch.Tensor:
    """q [1, H, T, D], k [1, Hkv, T, D], v [1, Hkv, T, Dv] → [1, T, H, Dv].

    mask [.., T, T] is what is added to the scores; without one the attention is causal. So is position_bias
    [1, H, T, T], which depends on queries too.
    """
    raise RuntimeError("traced only")


@attention.register_fake
def _(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    sinks: Any,
    mask: Any,
    scale: float,
    window: int,
    softcap: float,
    position_bias: Any = None,
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


# Tensors that callers pass on to any attention: what they say of one whole sequence is said by its mask.
INERT = {"position_ids", "cache_position", "cu_seq_lens_q", "cu_seq_lens_k", "token_type_ids", "input_ids"}
MAX_TOKENS = 1 << 24


def _select_all(name: str, selected: torch.Tensor, tokens: Any) -> None:
    """Sparse attention that picks min(K, f(T)) keys, or blocks of them, is dense up to the T where f(T) = K.

    The trace is held to such runs; it then says so (Graph.max_tokens).
    """
    size: Any = selected.shape[-1]
    expression: Any = None if isinstance(size, int) else size.node.expr
    sizes = [] if expression is None else [arg for arg in expression.args if arg.is_Integer]
    if len(sizes) != 1 or len(expression.args) != 2:
        raise UnsupportedError(f"{name}: attention to selected keys; no kernel picks keys")
    (symbol,) = expression.free_symbols
    (count,) = (arg for arg in expression.args if not arg.is_Integer)
    fewer, more = 1, MAX_TOKENS
    while more - fewer > 1:
        middle = (fewer + more) // 2
        fewer, more = (middle, more) if count.subs(symbol, middle) <= sizes[0] else (fewer, middle)
    torch._check(tokens <= fewer)  # type: ignore[no-untyped-call]


def select_within_budget(
    self: Any,
    hidden_states: torch.Tensor,
    position_embeddings: Any,
    attention_mask: torch.Tensor,
    past_key_values: Any,
) -> torch.Tensor:
    """A module that picks `token_budget` of the keys that a mask shows picks all of no more than so many.

    The trace is held to such runs. → what is seen [1, 1, T, T].
    """
    torch._check(hidden_states.shape[1] <= self.token_budget)  # type: ignore[no-untyped-call]
    return attention_mask if attention_mask.dtype == torch.bool else attention_mask == 0


def adapters_by_language(self: Any, lang_ids: torch.Tensor, hidden_states: torch.Tensor) -> torch.Tensor:
    """A module of each sequence's language; where that is no input, the trace keeps one of them."""
    norm = self.adapter_layer_norm
    if norm is None and self.adapter_reuse_layer_norm:
        norm = self.LayerNorm
    normed = hidden_states if norm is None else norm(hidden_states)
    adapted = torch.zeros_like(normed)
    for language, adapter in enumerate(self.adapter_modules.values()):
        adapted = torch.where((lang_ids == language)[:, None, None], adapter(normed), adapted)
    return adapted + (normed if self.ln_before_adapter else hidden_states)


def attention_forward(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    is_causal: bool | None = None,
    indices: torch.Tensor | None = None,
    block_indices: torch.Tensor | None = None,
    position_bias: torch.Tensor | None = None,
    sinks: torch.Tensor | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """What a module calls in place of its attention. The mask, where there is one, says what a token sees."""
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    name = type(module).__name__
    if attention_mask is None and not causal:
        raise UnsupportedError(f"{name}: attention that is not causal; pagedc compiles decoders")
    for word, other in others.items():
        if isinstance(other, torch.Tensor) and word not in INERT:
            raise UnsupportedError(f"{name}: attention with {word}; no kernel takes it")
    for selected in (indices, block_indices):
        if selected is not None:
            _select_all(name, selected, query.shape[2])
    scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
    if sinks is not None:
        if softcap or s_aux is not None:
            raise UnsupportedError(
                f"{name}: attention with sinks of tokens beside a softcap or sinks of heads"
            )
        query, key, s_aux = _less_sinks(query, key, sinks, scale)
    window, cap = int(sliding_window or 0), float(softcap or 0.0)
    out = torch.ops.pagedc.attention(
        query, key, value, s_aux, attention_mask, scale, window, cap, position_bias
    )
    return out, None


def _less_sinks(
    query: torch.Tensor, key: torch.Tensor, sinks: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sinks [1, H, T, 1] of each token as sinks that are 0: every score is less by the token's own.

    That is one more element of each query, of keys that have 1 there. → query, key and sinks [H].
    """
    query = torch.cat([query, sinks * (-1.0 / scale)], -1)
    key = torch.cat([key, torch.ones_like(key[..., :1])], -1)
    return query, key, query.new_zeros(query.shape[1])


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
ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, eager_mask)  # traced like all else, and read: compiler/masks.py
ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)
