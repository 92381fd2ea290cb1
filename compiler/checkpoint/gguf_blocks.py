"""Tensors of a GGUF file: plain floats, blocks kept as they are, and everything else as float32."""

import numpy as np
import numpy.typing as npt
import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

from pagedc.compiler.checkpoint.base import QuantizedTensor
from pagedc.compiler.checkpoint.gguf_file import GGUFFile
from pagedc.compiler.errors import UnsupportedError

GROUP = 32  # elements in a block of the three types that are kept
BLOCKS = (Type.Q4_0, Type.Q4_1, Type.Q8_0)
FLOATS = {
    Type.F32: torch.float32,
    Type.F16: torch.float16,
    Type.BF16: torch.bfloat16,
    Type.F64: torch.float64,
}


def read_tensor(file: GGUFFile, name: str) -> torch.Tensor | QuantizedTensor:
    """A tensor in the form it is stored in, or float32 for block types that have no form of ours."""
    tensor = file.tensors[name]
    if tensor.type in BLOCKS:
        return _read_blocks(file, name)
    if tensor.type in FLOATS:
        return torch.from_numpy(np.array(file.raw(name))).view(FLOATS[tensor.type]).reshape(tensor.shape)
    try:
        values = dequantize(file.raw(name), tensor.type)
    except NotImplementedError as error:
        raise UnsupportedError(
            f"{file.path}: {name} is of type {tensor.type.name}, which cannot be read"
        ) from error
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32)).reshape(tensor.shape)


def _read_blocks(file: GGUFFile, name: str) -> QuantizedTensor:
    """Codes, scales and minimums of a Q4_0, Q4_1 or Q8_0 tensor, bit for bit.

    A block is the float16 scale, the float16 minimum (Q4_1), then 32 codes: bytes (Q8_0), or 16 bytes whose
    low nibbles are elements 0 … 15 and whose high nibbles are elements 16 … 31.
    """
    kind, shape = file.tensors[name].type, file.tensors[name].shape
    groups = (*shape[:-1], shape[-1] // GROUP)
    blocks = file.raw(name).reshape(*groups, -1)
    if kind is Type.Q8_0:
        codes = np.array(blocks[..., 2:].view(np.int8))
    else:
        packed = blocks[..., -GROUP // 2 :]
        codes = np.concatenate([packed & 15, packed >> 4], axis=-1)
    return QuantizedTensor(
        codes=torch.from_numpy(codes.reshape(shape)),
        scales=_halves(blocks[..., :2], groups),
        minimums=_halves(blocks[..., 2:4], groups) if kind is Type.Q4_1 else None,
        group_size=GROUP,
        bits=8 if kind is Type.Q8_0 else 4,
    )


def _halves(pairs: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> torch.Tensor:
    """Pairs of bytes [..., 2] as float16 of a shape."""
    return torch.from_numpy(np.array(pairs).view(np.float16).reshape(shape))
