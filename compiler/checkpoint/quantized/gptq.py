"""GPTQ: 2, 3, 4 or 8 bits, a scale and a zero for each group of a column.

qweight int32 [K · bits / 32, N], qzeros int32 [K / G, N · bits / 32], scales [K / G, N], g_idx [K] the group
of each k: weight[n, k] = scale · (code − zero). The older form stores zero − 1.
"""

from functools import partial
from typing import Any

import torch

from pagedc.compiler.checkpoint.base import Stored
from pagedc.compiler.checkpoint.quantized.base import (
    Packed,
    Source,
    Tensors,
    affine,
    need,
    only,
    parts_of,
    unpack_words,
)

ROLES = {"codes": "qweight", "zeros": "qzeros", "scales": "scales", "groups": "g_idx"}


def find(config: dict[str, Any], source: Source) -> dict[str, Packed]:
    """Every matrix of the file."""
    bits = int(only(config, "bits", 2, 3, 4, 8, default=4))
    form = only(config, "checkpoint_format", "gptq", "gptq_v2", default="gptq")
    ordered = bool(config.get("desc_act", False))
    infos = source.infos
    found = {}
    for key, info in infos.items():
        if key.endswith(".qweight"):
            stem = key.removesuffix("qweight")
            parts = parts_of(infos, stem, ROLES)
            need(parts, stem + "weight", "scales", "zeros")
            read = partial(_read, bits=bits, stored_below=int(form == "gptq"))
            why = "their groups are scattered (desc_act)" if ordered and "groups" in parts else ""
            found[stem + "weight"] = Packed((info.shape[1], info.shape[0] * 32 // bits), parts, read, why)
    return found


def _read(tensors: Tensors, *, bits: int, stored_below: int) -> Stored:
    codes = unpack_words(tensors["codes"].T, bits)
    zeros = unpack_words(tensors["zeros"], bits).T.to(torch.int16) + stored_below
    scales = tensors["scales"].T.contiguous()
    columns, num_groups = codes.shape[1], scales.shape[1]
    in_order = torch.arange(columns) // -(-columns // num_groups)
    groups = tensors["groups"].long() if "groups" in tensors else in_order
    if torch.equal(groups, in_order):
        return affine(codes, zeros.contiguous(), scales, bits)
    return scales.float()[:, groups] * (codes - zeros[:, groups]).float()
