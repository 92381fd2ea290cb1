"""Matrices as kernels/triton/weights.py reads them: codes row by row, then scales, then minimums.

Experts lie one behind another, each with its own scales and minimums.
"""

import re
from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pagedc.compiler.checkpoint.base import QuantizedTensor
from pagedc.compiler.targets.cuda.configs import triton_module

ALIGNMENT = 64  # bytes, of each part
FLOATS = {"f32": "float32", "bf16": "bfloat16"}
ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "int8": 1, "uint8": 1}


class Part(NamedTuple):
    """One tensor of a packed matrix."""

    name: str  # codes, scales or minimums
    dtype: str
    shape: tuple[int, ...]
    start: int  # bytes from the matrix' own
    stride: int | None = None  # elements from expert to expert


def parts_of(name: str, shape: tuple[int, ...]) -> list[Part]:
    """The tensors of a matrix [rows, columns], or of experts [E, rows, columns]."""
    *experts, rows, columns = shape
    if name in FLOATS:
        return [Part("codes", FLOATS[name], shape, 0)]
    if experts:
        pitch = packed_bytes(name, rows, columns)
        return [
            one._replace(shape=(*experts, *one.shape), stride=pitch // ITEM_BYTES[one.dtype])
            for one in parts_of(name, (rows, columns))
        ]
    bits, group, has_minimum = _integers(name)
    grouped = (rows, columns // group)
    wanted = [("codes", "int8", (rows, columns)) if bits == 8 else ("codes", "uint8", (rows, columns // 2))]
    wanted += [("scales", "float16", grouped)] + [("minimums", "float16", grouped)] * has_minimum
    parts, start = [], 0
    for part, dtype, size in wanted:
        parts.append(Part(part, dtype, size, start))
        start += -(-prod(size) * ITEM_BYTES[dtype] // ALIGNMENT) * ALIGNMENT
    return parts


def packed_bytes(name: str, rows: int, columns: int) -> int:
    """Bytes of a matrix, up to where another expert's may begin."""
    last = parts_of(name, (rows, columns))[-1]
    size = last.start + prod(last.shape) * ITEM_BYTES[last.dtype]
    return size if name in FLOATS else -(-size // ALIGNMENT) * ALIGNMENT


class CudaLayout:
    """Floats, and blocks of 8 or 4 bits with float16 scales."""

    def holds(self, name: str) -> bool:
        """Formats of kernels/triton/weights.py; blocks of others are expanded."""
        return name in FLOATS or _integers(name) is not None

    def smaller(self, name: str) -> str | None:
        """None: its kernels read floats as they are."""
        return None

    def fits(self, tensor: torch.Tensor | QuantizedTensor, name: str) -> bool:
        """Never asked: there is no smaller format."""
        return False

    def packed_bytes(self, name: str, rows: int, columns: int) -> int:
        """Bytes of a matrix."""
        return packed_bytes(name, rows, columns)

    def pack(self, tensor: torch.Tensor | QuantizedTensor, name: str) -> NDArray[Any]:
        """The bytes of a matrix."""
        if isinstance(tensor, torch.Tensor):
            wanted = torch.float32 if name == "f32" else torch.bfloat16
            return _bytes(tensor.to(wanted))
        rows, columns = tensor.shape
        packed = np.zeros(self.packed_bytes(name, rows, columns), np.uint8)
        sources = {"codes": tensor.codes, "scales": tensor.scales, "minimums": tensor.minimums}
        for part in parts_of(name, (rows, columns)):
            source = sources[part.name]
            if part.dtype == "uint8":
                source = triton_module("weights").pack_int4(tensor.codes)
            if source is not None:
                data = _bytes(source)
                packed[part.start : part.start + len(data)] = data
        return packed


def _integers(name: str) -> Any:
    """Bits, group size and whether there are minimums; None for another format."""
    if name == "int8_g32":
        return 8, 32, False
    match = re.fullmatch(r"int4_g(32|64|128)(_min)?", name)
    return None if match is None else (4, int(match[1]), match[2] is not None)


def _bytes(tensor: torch.Tensor) -> NDArray[Any]:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
