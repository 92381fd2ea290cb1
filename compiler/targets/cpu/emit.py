"""Print a program as model.cpp."""

import re
from collections.abc import Sequence
from typing import Any

from pagedc.compiler.graph import STATEFUL
from pagedc.compiler.program import Program, RowFunction
from pagedc.compiler.render import environment
from pagedc.compiler.targets.cpu.calls import CallPrinter
from pagedc.compiler.targets.cpu.mixers import kv_block_bytes
from pagedc.compiler.targets.cpu.row_printer import print_signature
from pagedc.compiler.targets.cpu.tuned import Tiles
from pagedc.compiler.targets.state import state_bytes, state_calls


def emit(
    program: Program, name: str, version: str, level: str, kv_type: str, tiles: Sequence[Tiles] = ()
) -> str:
    """The text of model.cpp: the same for the same program and tiles."""
    calls = CallPrinter(program)
    sections = calls.sections()
    attentions = [call for call in program.calls if call.kind == "attention"]
    return (
        environment()
        .get_template("cpu/model.cpp.jinja")
        .render(
            name=name,
            version=version,
            level=level,
            kv_type=kv_type,
            tiles=tiles,
            token_bytes=program.arena_bytes["token"],
            row_bytes=program.arena_bytes["row"],
            vocab_size=program.logits.width,
            num_weights=len(program.weights),
            num_attention_layers=len(attentions),
            block_bytes=[
                kv_block_bytes(call, kv_type) for call in sorted(attentions, key=lambda call: call.layer)
            ]
            or [0],
            state_kinds={call.kind for call in program.calls if call.kind in STATEFUL},
            state_bytes=[state_bytes(call) for call in state_calls(program)],
            recurrences=calls.mixers.recurrences(),
            attentions=calls.mixers.attentions(kv_type),
            row_functions=[_row_function(function) for function in program.row_functions],
            loops=sections.loops,
            forward=[*sections.tokens, *sections.rows],
            scratch_bytes=list(calls.scratch),
        )
    )


def _row_function(function: RowFunction) -> dict[str, Any]:
    origins = list(dict.fromkeys(re.sub(r"\.\d+\b", ".*", origin) for origin in function.origins))
    signature, body = print_signature(function.kernel, function.name), function.body
    if function.width:
        signature = signature.replace("(", "(int count, ", 1).replace("inline", "PAGEDC_INLINE", 1)
        body = body.replace(f" < {function.width};", " < count;")
    return {"origins": origins, "signature": signature, "body": body}
