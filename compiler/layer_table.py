"""What differs between iterations of a repeated layer: a column for each place, weight, KV cache or state."""

import re
from dataclasses import dataclass, field

from pagedc.compiler.graph import STATEFUL
from pagedc.compiler.outline import Loop
from pagedc.compiler.program import Call

STEP_INPUTS = ("token_ids", "positions")  # given to the step, so they have no place in an arena


@dataclass(slots=True)
class Column:
    """One thing that differs between layers, and its value in each."""

    name: str
    values: list[int]
    note: str = ""


@dataclass(slots=True)
class LayerTable:
    """The columns of a loop, and which of them spells each argument of its calls."""

    columns: list[Column] = field(default_factory=list)
    named: dict[tuple[int, str], Column] = field(default_factory=dict)  # (call, argument) → column

    def spell(self, call: int, argument: str, value: int) -> str:
        """The text of an argument: a number, or a column of the table."""
        column = self.named.get((call, argument))
        return str(value) if column is None else f"layer.{column.name}"


def arguments(call: Call) -> dict[str, int]:
    """Every number of a call that may differ between layers: places of buffers, weights, the layer."""
    values: dict[str, int] = {}
    for position, operand in enumerate(call.operands):
        if operand.buffer.name not in STEP_INPUTS:
            values[f"in{position}"] = operand.buffer.offset
    for position, weight in enumerate(call.weights):
        values[f"w{position}"] = weight.index
    for position, buffer in enumerate(call.outputs):
        values[f"out{position}"] = buffer.offset
    if call.kind == "attention" or "cache" in call.constants:
        values["kv"] = call.layer
    if call.kind in STATEFUL:
        values["state"] = call.layer
    return values


def layer_table(loop: Loop) -> LayerTable:
    """The table of a loop, without a column for which function an iteration is."""
    table = LayerTable()
    used: set[str] = set()
    for position in range(len(loop.iterations[0])):
        calls = [iteration[position] for iteration in loop.iterations]
        for argument in arguments(calls[0]):
            values = [arguments(call)[argument] for call in calls]
            if len(set(values)) > 1:
                column = _column(calls[0], argument, values, used)
                # Buffers that alternate do so together: one column serves all of equal values.
                same = next((c for c in table.columns if c.values == values), None)
                if same is None:
                    table.columns.append(column)
                    used.add(column.name)
                table.named[position, argument] = same or column
    return table


def call_note(call: Call, in_loop: bool) -> str:
    """`model.layers.*.mlp.down_proj: linear [T, 96] → [T, 64]`."""
    origin = re.sub(r"\.\d+\b", ".*", call.origin) if in_loop else call.origin

    def shape(width: int, domain: str) -> str:
        return f"[{'R' if domain == 'row' else 'T'}, {width}]"

    inputs = ", ".join(shape(operand.buffer.width, operand.buffer.domain) for operand in call.operands)
    outputs = ", ".join(shape(buffer.width, buffer.domain) for buffer in call.outputs)
    return f"{origin}: {call.kind} {inputs} → {outputs}"


def _column(call: Call, argument: str, values: list[int], used: set[str]) -> Column:
    kind = argument.rstrip("0123456789")
    number = argument.removeprefix(kind)
    if kind == "kv":
        return Column(_unique("kv_cache", used), values)
    if kind == "state":
        return Column(_unique("state", used), values)
    if kind == "w":
        weight = call.weights[int(number)]
        path = [
            part for part in weight.name.split("|")[0].split(".") if not part.isdigit() and part != "weight"
        ]
        name = "_".join(path[-1:]) if path else "weight"
        if "|" in weight.name:
            parts = (part.split(".")[-2] for part in weight.name.split("|") if "." in part)
            name = "_".join(parts)[:40] or "weights"  # what was computed from parameters has no module
        note = f"weight: {re.sub(r'[.][0-9]+[.]', '.*.', weight.name)[:100]}"
    else:
        buffer = call.operands[int(number)].buffer if kind == "in" else call.outputs[int(number)]
        name, note = f"{kind}_{re.sub(r'[^a-z_]', '', buffer.name.lower())}", "place of a buffer"
    name = re.sub(r"\W", "_", name) or "weight"  # of several that were folded: they have no paths
    return Column(_unique(name, used), values, note)


def _unique(name: str, used: set[str]) -> str:
    unique, count = name, 1
    while unique in used:
        count += 1
        unique = f"{name}_{count}"
    return unique
