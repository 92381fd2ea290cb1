"""The seams of experts that a class computes itself, without transformers' interface for them.

Each takes the place of a method while a module is traced (compiler/installed_seams.py), and says with the
chosen experts' indexes what the method says with loops over experts, or with tokens sorted by expert.
"""

from collections.abc import Callable
from typing import Any

import torch

from pagedc.compiler.errors import UnsupportedError

Tensor = torch.Tensor


def looped_experts(self: Any, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
    """The interface's experts as a class computes them itself: a loop over those that some token chose.

    Experts past the last matrix of `down_proj` give what they are given.
    """
    first, second, gate_of = _matrices(self)
    count, passes = second.shape[0], hasattr(self, "identity_expert")
    if any(matrix.shape[0] > count for matrix in first) and not passes:
        raise UnsupportedError(f"{type(self).__name__}: {first[0].shape[0]} and {count} matrices of experts")
    x = hidden_states.flatten(0, -2)
    index = top_k_index.clamp(max=count - 1) if passes else top_k_index
    hidden = gate_of(*(torch.ops.pagedc.grouped_linear(x, index, matrix) for matrix in first))
    out = torch.ops.pagedc.grouped_linear(hidden, index, second)
    if passes:
        out = torch.where((top_k_index < count).unsqueeze(2), out, x.unsqueeze(1))
    weighted: Tensor = out * top_k_weights.to(out.dtype).unsqueeze(2)
    return weighted.sum(1).to(hidden_states.dtype).view(hidden_states.shape)


def _matrices(experts: Any) -> tuple[list[Tensor], Tensor, Callable[..., Tensor]]:
    """The first matrices [E, N, K] of experts, the second one, and what comes between; by their names."""
    gated: Any = getattr(experts, "gate_up_proj", None)
    mlp: Any = getattr(experts, "mlp", None)
    if gated is not None and gated.ndim == experts.down_proj.ndim == 3:

        def halves(hidden: Tensor) -> Tensor:
            gate, up = hidden.chunk(2, dim=-1)
            return experts.act_fn(gate) * up  # type: ignore[no-any-return]

        return [gated], experts.down_proj, getattr(experts, "_apply_gate", halves)
    if all(hasattr(mlp, name) for name in ("w1", "v1", "w2")):  # of all experts below each other
        shape = (-1, experts.ffn_hidden_size, experts.hidden_size)
        first = [matrix.view(shape) for matrix in (mlp.w1, mlp.v1)]
        return first, mlp.w2.view(shape).transpose(1, 2), lambda gate, up: mlp.activation_fn(gate) * up
    raise UnsupportedError(f"{type(experts).__name__}: a loop over experts")


# The matrices that the methods of sorted experts read, and the bias of the sum.
SORTED = ("router", "input_linear", "output_linear", "bias")


def sorted_experts(self: Any, layer_input: Tensor) -> Tensor:
    """A gated layer whose tokens are sorted by expert on the way in, and back on the way out."""
    x = layer_input.flatten(0, -2)
    index, gates = _routes(self.router, x)
    gate, up = torch.ops.pagedc.grouped_linear(x, index, self.input_linear.weight).chunk(2, dim=-1)
    return _merged(self, self.activation(gate) * up, index, gates).view(layer_input.shape)


def experts_before(self: Any, layer_input: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Experts before an attention: each of a token's experts asks with queries of its own.

    layer_input [1, T, K] → [1, T, top_k, N], the router's logits and what `experts_after` needs.
    """
    x = layer_input.flatten(0, -2)
    routes = _routes(self.router, x)
    out = torch.ops.pagedc.grouped_linear(x, routes[0], self.input_linear.weight)
    return out.unsqueeze(0), x, routes


def experts_after(self: Any, layer_input: Tensor, topo_info: tuple[Tensor, Tensor]) -> Tensor:
    """The same experts after the attention: layer_input [1, T, top_k, N] → [1, T, K]."""
    return _merged(self, layer_input.squeeze(0), *topo_info).unsqueeze(0)


def _routes(router: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    """The experts that each token of x [T, K] is given to, and their weights: both [T, top_k]."""
    logits, index = router.layer(x).float().topk(router.top_k, dim=1)
    return index, torch.softmax(logits, dim=1).type_as(x)


def _merged(self: Any, hidden: Tensor, index: Tensor, gates: Tensor) -> Tensor:
    """hidden [T, top_k, K] through the second matrices, weighted and summed → [T, N]."""
    out = torch.ops.pagedc.grouped_linear(hidden, index, self.output_linear.weight)
    merged: Tensor = (out * gates.unsqueeze(2)).sum(1) + self.bias
    return merged
