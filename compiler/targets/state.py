"""Calls that carry state from token to token: how large it is, and what specialises their kernels."""

from typing import Any

from pagedc.compiler.graph import STATEFUL
from pagedc.compiler.program import Call, Program


def state_calls(program: Program) -> list[Call]:
    """Stateful calls, by the number of their state."""
    calls = [call for call in program.calls if call.kind in STATEFUL]
    return sorted(calls, key=lambda call: call.layer)


def state_bytes(call: Call) -> int:
    """Bytes of one sequence's state, as the kernels of every target lay it out."""
    c = call.constants
    if call.kind == "causal_conv":
        return 4 * _whole_vectors((c["taps"] - 1) * c["channels"])
    if call.kind == "running_max":
        return 4 * _whole_vectors(c["channels"])
    return int(4 * c["heads"] * c["key_dim"] * _whole_vectors(c["value_dim"]))


def recurrence_key(call: Call) -> tuple[Any, ...]:
    """Equal for recurrences that are one `Config`."""
    names = ("heads", "key_heads", "key_dim", "value_dim", "is_delta")
    return decay_kind(call), *(call.constants[name] for name in names)


def decay_kind(call: Call) -> str:
    """The name of its `Decay`."""
    if call.constants["has_rate"]:
        return "EXP_COLUMN"
    rows, columns = call.constants["decays"]
    return "ROW" if rows > 1 else "COLUMN" if columns > 1 else "HEAD"


def _whole_vectors(size: int) -> int:
    return -(-size // 16) * 16
