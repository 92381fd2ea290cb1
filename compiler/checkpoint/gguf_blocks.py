"""Tensors of a GGUF file: plain floats, blocks whose codes and scales are kept, and the rest as float32."""

import numpy as np
import torch
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize

from pagedc.compiler.checkpoint.base import QuantizedTensor, exact_halves
from pagedc.compiler.checkpoint.gguf_codes import DECODERS, Decoded
from pagedc.compiler.checkpoint.gguf_file import GGUFFile
from pagedc.compiler.errors import UnsupportedError

BLOCKS = frozenset(DECODERS)
FLOATS = {
    Type.F32: torch.float32,
    Type.F16: torch.float16,
    Type.BF16: torch.bfloat16,
    Type.F64: torch.float64,
}
CHUNK = 1 << 14  # blocks decoded at once: their intermediate arrays stay small


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
    """The same weights, exactly: neither codes nor scales are rounded."""
    kind, shape = file.tensors[name].type, file.tensors[name].shape
    decoder = DECODERS[kind]
    blocks = file.raw(name).reshape(-1, decoder.block_bytes)
    parts = [decoder.decode(blocks[start : start + CHUNK]) for start in range(0, len(blocks), CHUNK)]
    codes = np.concatenate([part.codes for part in parts]).reshape(shape)
    scales, minimums, units = (_joined(parts, field, shape[:-1]) for field in ("scales", "minimums", "units"))
    if scales is None:
        raise UnsupportedError(f"{file.path}: {name} has no scales")
    if kind is Type.MXFP4:  # powers of two: float16 unless one is out of its range
        (scales,) = exact_halves(scales)
    return QuantizedTensor(torch.from_numpy(codes), scales, minimums, decoder.group_size, decoder.bits, units)


def _joined(parts: list[Decoded], field: str, shape: tuple[int, ...]) -> torch.Tensor | None:
    arrays = [array for part in parts if (array := getattr(part, field)) is not None]
    return torch.from_numpy(np.concatenate(arrays).reshape(*shape, -1)) if arrays else None
