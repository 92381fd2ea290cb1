"""The seams that have no interface of transformers' for them, put in their place while a module is traced.

They stand for functions in the files of the module's own layers, and for methods of its classes.
"""

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch

from pagedc.compiler.errors import UnsupportedError
from pagedc.compiler.expert_seams import SORTED, experts_after, experts_before, looped_experts, sorted_experts
from pagedc.compiler.seams import adapters_by_language, select_within_budget
from pagedc.compiler.state_seams import (
    attention_by_blocks,
    chunk_scan,
    gated_delta_rule,
    gated_sum,
    matrix_memory,
    selective_scan,
    weighted_average,
)

# By the name that a kernel library has for a function of a file, or that a module's class has for a method,
# with the attributes that the method reads.
FUNCTIONS: dict[str, Callable[..., Any]] = {
    "selective_scan_fn": selective_scan,
    "mamba_chunk_scan_combined": chunk_scan,
    "chunk_gated_delta_rule": gated_delta_rule,
    "chunk_kda": gated_delta_rule,
    "rwkv_linear_attention": weighted_average,
}
METHODS: tuple[tuple[str, Callable[..., Any], tuple[str, ...]], ...] = (
    ("_rnn_scan", gated_sum, ()),
    ("forward", matrix_memory, ()),
    ("forward", attention_by_blocks, ("slope_rate", "qkv_proj", "output_gate", "out_proj", "norm")),
    ("forward", looped_experts, ()),
    ("forward", sorted_experts, (*SORTED, "activation")),
    ("map", experts_before, SORTED),
    ("reduce", experts_after, SORTED),
    ("forward", select_within_budget, ("token_budget",)),
    ("lang_adapter", adapters_by_language, ("adapter_modules",)),
)


@contextlib.contextmanager
def installed(model: torch.nn.Module) -> Iterator[None]:
    """While a model is traced, these functions and methods of its layers are pagedc's."""
    replaced: list[tuple[Any, str, Any]] = []
    classes = {type(module): module for module in model.modules()}
    for file in dict.fromkeys(sys.modules[cls.__module__] for cls in classes):
        for name, function in vars(file).items():
            if _interface(function) in FUNCTIONS:
                replaced.append((file, name, _without_state(FUNCTIONS[_interface(function)])))
    for cls, module in classes.items():
        for name, seam, read in METHODS:
            has = name in vars(cls) and all(hasattr(module, attribute) for attribute in read)
            if has and _takes_the_same(vars(cls)[name], seam):
                replaced.append((cls, name, seam))
    with contextlib.ExitStack() as stack:
        for owner, name, function in replaced:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, function)
        yield


def _interface(function: Any) -> str:
    """The name that a kernel library has for a function declared with a fallback, else its own."""
    if not inspect.isfunction(function):
        return ""
    return str(inspect.getclosurevars(function).nonlocals.get("func_name", function.__name__))


def _takes_the_same(method: Any, seam: Callable[..., Any]) -> bool:
    """Whether a method, not one that calls an interface in its place, has every parameter of its seam."""
    if not inspect.isfunction(method) or hasattr(method, "__wrapped__"):
        return False
    named = [name for name in inspect.signature(seam).parameters if name != "_"]
    return set(named) <= set(inspect.signature(method).parameters)


def _without_state(seam: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **keywords: Any) -> Any:
        for name in ("initial_state", "initial_states"):
            if keywords.pop(name, None) is not None:
                raise UnsupportedError(f"{seam.__name__}: a state that the model itself provides")
        return seam(*arguments, **keywords)

    return call
