"""AWQ: 4 bits, a scale and a zero for each group of a column.

qweight int32 [K, N / 8], qzeros int32 [K / G, N / 8], scales [K / G, N]:
weight[n, k] = scale · (code − zero). A word's nibbles are columns 0 2 4 6 1 3 5 7 of its eight.
"""

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

ORDER = [0, 4, 1, 5, 2, 6, 3, 7]  # where each of the eight columns lies
ROLES = {"codes": "qweight", "zeros": "qzeros", "scales": "scales"}


def find(config: dict[str, Any], source: Source) -> dict[str, Packed]:
    """Every matrix of the file."""
    only(config, "bits", 4, default=4)
    only(config, "version", "gemm", "GEMM", default="gemm")
    infos = source.infos
    found = {}
    for key, info in infos.items():
        if key.endswith(".qweight"):
            stem = key.removesuffix("qweight")
            parts = parts_of(infos, stem, ROLES)
            need(parts, stem + "weight", "scales", "zeros")
            found[stem + "weight"] = Packed((info.shape[1] * 8, info.shape[0]), parts, _read)
    return found


def _read(tensors: Tensors) -> Stored:
    codes, zeros = _columns(tensors["codes"]), _columns(tensors["zeros"])
    return affine(codes.T.contiguous(), zeros.T.contiguous(), tensors["scales"].T.contiguous(), 4)


def _columns(words: torch.Tensor) -> torch.Tensor:
    """[rows, N / 8] words as [rows, N] nibbles in order."""
    nibbles = unpack_words(words, 4).reshape(len(words), -1, 8)
    return nibbles[..., ORDER].reshape(len(words), -1)
