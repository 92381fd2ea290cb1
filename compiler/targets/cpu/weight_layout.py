"""Matrices as kernels/cpu/formats.h reads them: panels of 16 rows."""

from typing import Any

import torch
from numpy.typing import NDArray

from pagedc.compiler.checkpoint.base import QuantizedTensor
from pagedc.kernels.cpu import layout


class CpuLayout:
    """Panels of 16 rows, of floats or of blocks."""

    def holds(self, name: str) -> bool:
        """Whether its kernels read a format."""
        try:
            layout.parse_format(name)
        except ValueError:
            return False
        return True

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
        return layout.pack_bfloat16(
            tensor.to(torch.bfloat16).contiguous().view(torch.int16).numpy().view("uint16")
        )
