"""Matrices as kernels/cpu/formats.h reads them: panels of 16 rows."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pagedc.compiler.checkpoint.base import QuantizedTensor
from pagedc.kernels.cpu import layout


class CpuLayout:
    """Panels of 16 rows, of floats or of blocks; `codes`: whether the kernels read bf16 in 12 bits."""

    def __init__(self, *, codes: bool) -> None:
        self._codes = codes

    def holds(self, name: str) -> bool:
        """Whether its kernels read a format."""
        try:
            layout.parse_format(name)
        except ValueError:
            return False
        return True

    def smaller(self, name: str) -> str | None:
        """bf16 in 12 bits."""
        return "coded_bf16" if name == "bf16" and self._codes else None

    def fits(self, tensor: torch.Tensor | QuantizedTensor, name: str) -> bool:
        """Whether the upper bytes of a matrix are few."""
        floats = tensor.dequantize() if isinstance(tensor, QuantizedTensor) else tensor
        return name == "coded_bf16" and layout.is_codable(_bits(floats))

    def packed_bytes(self, name: str, rows: int, columns: int) -> int:
        """Bytes of a packed matrix."""
        return layout.packed_bytes(name, rows, columns)

    def pack(self, tensor: torch.Tensor | QuantizedTensor, name: str) -> NDArray[Any]:
        """The bytes of a matrix."""
        if isinstance(tensor, QuantizedTensor):
            codes, scales = tensor.codes.numpy(), tensor.scales.numpy()
            if name == "int8_g0":
                return layout.pack_int8_rows(codes, scales.reshape(-1))
            minimums, units = (
                None if part is None else part.numpy() for part in (tensor.minimums, tensor.units)
            )
            return (layout.pack_int8 if tensor.bits == 8 else layout.pack_int4)(
                codes, scales, minimums, units
            )
        if name == "f32":
            return layout.pack_float32(tensor.float().contiguous().numpy())
        pack = layout.pack_coded_bfloat16 if name == "coded_bf16" else layout.pack_bfloat16
        return pack(_bits(tensor))


def _bits(tensor: torch.Tensor) -> NDArray[np.uint16]:
    bits: NDArray[np.uint16] = tensor.to(torch.bfloat16).contiguous().view(torch.int16).numpy().view("uint16")
    return bits
