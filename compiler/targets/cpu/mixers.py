"""The `Config` of each distinct attention and linear recurrence of a program."""

from typing import Any

from pagedc.compiler.program import Call, Program
from pagedc.compiler.targets.cpu.cpp import float_literal
from pagedc.compiler.targets.state import decay_kind, recurrence_key, state_bytes

BLOCK_SIZE = 16  # tokens; kv_cache.h


def kv_block_bytes(call: Call, kv_type: str) -> int:
    """Bytes of one block of one attention layer, as kv_cache.h lays it out."""
    head_dim, v_head_dim = call.constants["head_dim"], call.constants["v_head_dim"]
    size = 2 if kv_type == "bf16" else 4
    k_dim = head_dim + head_dim % 2 if kv_type == "bf16" else head_dim
    return int(call.constants["num_kv_heads"] * (k_dim + -(-v_head_dim // 16) * 16) * BLOCK_SIZE * size)


class Mixers:
    """Names each of them, in order of appearance."""

    def __init__(self, program: Program) -> None:
        self._distinct: dict[str, dict[tuple[Any, ...], Call]] = {"attention": {}, "linear_recurrence": {}}
        for call in program.calls:
            if call.kind in self._distinct:
                self._distinct[call.kind].setdefault(_key(call), call)

    def name_of(self, call: Call) -> str:
        """`Attention0`, `Recurrence1`."""
        number = list(self._distinct[call.kind]).index(_key(call))
        return f"{'Attention' if call.kind == 'attention' else 'Recurrence'}{number}"

    def attentions(self, kv_type: str) -> list[dict[str, Any]]:
        """What the template prints of each attention."""
        return [
            {
                **call.constants,
                "name": self.name_of(call),
                "scale": float_literal(call.constants["scale"]),
                "softcap": float_literal(call.constants["softcap"]),
                "block_bytes": kv_block_bytes(call, kv_type),
            }
            for call in self._distinct["attention"].values()
        ]

    def recurrences(self) -> list[dict[str, Any]]:
        """What the template prints of each recurrence."""
        return [
            {
                **call.constants,
                "name": self.name_of(call),
                "decay": decay_kind(call),
                "state_bytes": state_bytes(call),
            }
            for call in self._distinct["linear_recurrence"].values()
        ]


def _key(call: Call) -> tuple[Any, ...]:
    return recurrence_key(call) if call.kind == "linear_recurrence" else tuple(sorted(call.constants.items()))
