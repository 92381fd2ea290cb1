"""The same model with rows of whole blocks of 256, so that each of its matrices can be of a K type.

SmolLM2's hidden size is 576: a K type's block of 256 does not divide it, and llama.cpp takes another type for
most of the file. Zeros up to 768, and heads of zeros in the same proportion, change nothing of what the
model computes: a norm over n values of which z are zeros sees (n − z) / n of the mean of the squares, so its
epsilon is scaled by that, and its weight by the square root.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize

BLOCK = 256


def pad(source: Path, target: Path) -> None:
    """Write `target`: the llama-like GGUF file `source`, not quantised, its hidden size a multiple of 256."""
    reader = GGUFReader(source)
    architecture = str(_value(reader, "general.architecture"))
    hidden, heads, kv_heads = (
        int(_value(reader, f"{architecture}.{name}"))
        for name in ("embedding_length", "attention.head_count", "attention.head_count_kv")
    )
    padded = -(-hidden // BLOCK) * BLOCK
    grown = {hidden: padded, hidden * kv_heads // heads: padded * kv_heads // heads}
    epsilon = f"{architecture}.attention.layer_norm_rms_epsilon"
    changed = {
        f"{architecture}.embedding_length": padded,
        f"{architecture}.attention.head_count": heads * padded // hidden,
        f"{architecture}.attention.head_count_kv": kv_heads * padded // hidden,
        epsilon: _value(reader, epsilon) * hidden / padded,
    }
    writer = GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            sub_type = field.types[1] if len(field.types) > 1 else None
            writer.add_key_value(name, changed.get(name, field.contents()), field.types[0], sub_type)
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if values.ndim == 1:
            values = values * np.float32((hidden / padded) ** 0.5)
        values = _grow(values, grown)
        kind = GGMLQuantizationType(tensor.tensor_type)
        if kind is not GGMLQuantizationType.F32:
            values = quantize(values, kind)
        writer.add_tensor(tensor.name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _value(reader: GGUFReader, name: str) -> Any:
    return reader.fields[name].contents()


def _grow(values: npt.NDArray[np.float32], sizes: dict[int, int]) -> npt.NDArray[np.float32]:
    return np.pad(values, [(0, sizes.get(size, size) - size) for size in values.shape])
