"""MXFP4: 4-bit floats (e2m1), a power of two for each 32 of a row.

`X_blocks` uint8 [E, N, K / 32, 16], low nibble first, and `X_scales` uint8 [E, N, K / 32], the exponent
+ 127. The module holds X as [E, K, N].
"""

from typing import Any

import numpy as np
import torch

from pagedc.compiler.checkpoint.base import Stored
from pagedc.compiler.checkpoint.gguf_codes import E2M1
from pagedc.compiler.checkpoint.quantized.base import Packed, Source, Tensors, need, parts_of

EXPANDED = "the module holds them transposed (nothing is lost)"


def find(config: dict[str, Any], source: Source) -> dict[str, Packed]:
    """Every tensor of blocks."""
    infos = source.infos
    found = {}
    for key, info in infos.items():
        if key.endswith("_blocks"):
            stem = key.removesuffix("_blocks")
            parts = parts_of(infos, stem, {"blocks": "_blocks", "scales": "_scales"})
            need(parts, stem, "scales")
            *experts, rows, groups, half = info.shape
            found[stem] = Packed((*experts, groups * half * 2, rows), parts, _read, EXPANDED)
    return found


def _read(tensors: Tensors) -> Stored:
    blocks = tensors["blocks"]
    nibbles = torch.stack([blocks & 15, blocks >> 4], dim=-1).flatten(-2)
    halves = torch.from_numpy(E2M1.astype(np.float32))[nibbles.long()]
    exponents = tensors["scales"].to(torch.int32).unsqueeze(-1) - 128  # − 127, and half
    weights = torch.ldexp(halves, exponents).flatten(-2).to(torch.bfloat16)  # 2 bits and a sign: exact
    return weights.transpose(-1, -2).contiguous()
