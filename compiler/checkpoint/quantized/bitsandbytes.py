"""bitsandbytes: 8-bit rows, or 4-bit codes of a table (nf4, fp4) in blocks.

8 bits: weight int8 [N, K], SCB float32 [N]; weight = code · SCB / 127. 4 bits: weight uint8 [N · K / 2, 1],
high nibble first, weight.absmax of each block, weight.quant_map of 16 values, and a JSON `quant_state` with
the shape; absmax may itself be 8-bit codes of nested_quant_map.
"""

import json
from typing import Any

import torch

from pagedc.compiler.checkpoint.base import QuantizedTensor, Stored
from pagedc.compiler.checkpoint.quantized.base import Packed, Source, Tensors, need, parts_of
from pagedc.compiler.errors import CheckpointError

EXPANDED = "the kernels have no tables of 4-bit values"
STATE = "weight.quant_state.bitsandbytes__"
ROLES = {
    "codes": "weight",
    "absmax": "weight.absmax",
    "table": "weight.quant_map",
    "nested_absmax": "weight.nested_absmax",
    "nested_table": "weight.nested_quant_map",
    "nf4": f"{STATE}nf4",
    "fp4": f"{STATE}fp4",
}


def find(config: dict[str, Any], source: Source) -> dict[str, Packed]:
    """Every matrix of the file; the shape of a 4-bit one is in its state."""
    infos = source.infos
    found = {}
    for key in infos:
        if key.endswith(".SCB"):
            stem = key.removesuffix("SCB")
            parts = parts_of(infos, stem, {"codes": "weight", "scales": "SCB", "form": "weight_format"})
            need(parts, stem + "weight", "codes")
            found[stem + "weight"] = Packed(infos[parts["codes"]].shape, parts, _read_rows)
        elif key.endswith(".weight.absmax"):
            stem = key.removesuffix("weight.absmax")
            parts = parts_of(infos, stem, ROLES)
            need(parts, stem + "weight", "codes", "table")
            states: Tensors = {kind: source.read(parts[kind]) for kind in ("nf4", "fp4") if kind in parts}
            found[stem + "weight"] = Packed(state_of(states)["shape"], parts, _read_blocks, EXPANDED)
    return found


def state_of(tensors: Tensors) -> dict[str, Any]:
    """The quant_state of a 4-bit matrix. Raises CheckpointError where it is none."""
    for kind in ("nf4", "fp4"):
        if kind in tensors:
            try:
                state = json.loads(bytes(tensors[kind].tolist()))
                return {**state, "shape": tuple(int(size) for size in state["shape"])}
            except (ValueError, KeyError, TypeError) as error:
                raise CheckpointError(f"a quant_state of bitsandbytes cannot be read: {error}") from error
    raise CheckpointError("a 4-bit weight of bitsandbytes without its quant_state")


def _read_rows(tensors: Tensors) -> Stored:
    codes = tensors["codes"]
    scales = (tensors["scales"].float() / 127).reshape(-1, 1)
    return QuantizedTensor(codes, scales, None, codes.shape[1], 8)


def _read_blocks(tensors: Tensors) -> Stored:
    state = state_of(tensors)
    absmax = tensors["absmax"].float()
    if "nested_absmax" in tensors:
        inner = tensors["nested_table"].float()[tensors["absmax"].long()]
        blocks = tensors["nested_absmax"].float().repeat_interleave(int(state["nested_blocksize"]))
        absmax = inner * blocks[: len(inner)] + float(state["nested_offset"])
    packed = tensors["codes"].reshape(-1)
    codes = torch.stack([packed >> 4, packed & 15], dim=-1).flatten()
    values = tensors["table"].float()[codes.long()]
    values *= absmax.repeat_interleave(int(state["blocksize"]))[: len(values)]
    return values[: torch.Size(state["shape"]).numel()].reshape(state["shape"])
