"""Checkpoints in the layouts of quantised Hugging Face models, each matrix of a layer rounded to nearest.

Better quantisers choose better integers; what is stored, and so what is read and run, is the same. The
layouts are written by the writers that the tests of each method use.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tests.compiler.checkpoint import packing_methods as write

from pagedc.compiler.checkpoint import open_checkpoint
from pagedc.compiler.checkpoint.base import QuantizedTensor

GROUP = 128
TINY = 2.0**-24  # the least float16: the scale of a group of zeros
GROUPS = {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "symmetric": True}}
ROWS = {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "int", "symmetric": True}}
PACKED: dict[str, Any] = {"quant_method": "compressed-tensors"}


def round_checkpoint(model: Path, name: str, directory: Path, plain: Path) -> None:
    """Write `model` twice: in `directory` as the method `name` stores it, in `plain` as the float32 numbers
    that its integers mean.
    """
    config, rounding = METHODS[name]
    checkpoint = open_checkpoint(str(model))
    stored: dict[str, torch.Tensor] = {}
    meant: dict[str, torch.Tensor] = {}
    for key in checkpoint.names():
        weight = checkpoint.read(key)
        if isinstance(weight, QuantizedTensor):
            raise ValueError(f"{model}: {key} is quantised already")
        if key == "lm_head.weight" and checkpoint.config.tie_word_embeddings:
            continue
        if "_proj." in key:
            tensors, floats = rounding(key.removesuffix("weight"), weight.float().numpy())
            stored |= {part: tensor.contiguous() for part, tensor in tensors.items()}
            meant[key] = torch.from_numpy(np.ascontiguousarray(floats))
        else:
            stored[key] = meant[key] = weight.contiguous()
    for folder, tensors, quantization in ((directory, stored, config), (plain, meant, None)):
        folder.mkdir()
        save_file(tensors, folder / "model.safetensors")
        fields = checkpoint.config.to_dict() | {"dtype": "bfloat16"}
        if quantization is not None:
            fields["quantization_config"] = quantization
        (folder / "config.json").write_text(json.dumps(fields))
        for file, data in checkpoint.tokenizer_files.items():
            (folder / file).write_bytes(data)


def _affine(weights: np.ndarray, least_zero: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """4-bit codes [K, N], zeros and float16 scales [groups, N] of weights [N, K]."""
    groups = weights.reshape(len(weights), -1, GROUP)
    low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
    scales = np.maximum((high - low) / 15, TINY).astype(np.float16)
    wide = scales.astype(np.float32)
    zeros = np.clip(np.rint(-low / wide), least_zero, 15).astype(np.int64)
    codes = np.clip(np.rint(groups / wide[..., None]) + zeros[..., None], 0, 15).astype(np.int64)
    return codes.reshape(weights.shape).T, zeros.T, scales.T.copy()


def _awq(stem: str, weights: np.ndarray) -> write.Written:
    return write.pack_awq(stem, *_affine(weights))


def _gptq(stem: str, weights: np.ndarray) -> write.Written:
    # Its first version stores zeros less one in 4 bits: a zero of 0 has no place.
    codes, zeros, scales = _affine(weights, least_zero=1)
    return write.pack_gptq(stem, codes, zeros, scales, np.arange(len(codes)) // GROUP)


def _symmetric(stem: str, weights: np.ndarray) -> write.Written:
    groups = weights.reshape(len(weights), -1, GROUP)
    scales = torch.from_numpy(np.maximum(np.abs(groups).max(-1) / 7.5, TINY)).bfloat16()
    codes = np.clip(np.rint(groups / scales.float().numpy()[..., None]), -8, 7).astype(np.int64)
    return write.pack_words(stem, codes.reshape(weights.shape), None, scales, bits=4)


def _largest(weights: np.ndarray) -> torch.Tensor:
    """The largest absolute value of each row, [N, 1]."""
    return torch.from_numpy(np.maximum(np.abs(weights).max(-1, keepdims=True), TINY))


def _codes(weights: np.ndarray) -> torch.Tensor:
    return torch.round(torch.from_numpy(weights) / _largest(weights) * 127).to(torch.int8)


def _rows(stem: str, weights: np.ndarray) -> write.Written:
    return write.pack_rows(stem, _codes(weights), _largest(weights) / 127)


def _bnb_int8(stem: str, weights: np.ndarray) -> write.Written:
    return write.pack_bnb_int8(stem, _codes(weights), _largest(weights).flatten())


def _fp8(stem: str, weights: np.ndarray) -> write.Written:
    rows, columns = (size // GROUP for size in weights.shape)
    blocks = np.abs(weights).reshape(rows, GROUP, columns, GROUP).max((1, 3))
    scales = np.maximum(blocks / 448, TINY).astype(np.float32)
    wide = np.repeat(np.repeat(scales, GROUP, 0), GROUP, 1)
    values = torch.from_numpy(weights / wide).to(torch.float8_e4m3fn)
    return write.pack_float8(stem, values, torch.from_numpy(scales), (GROUP, GROUP), "weight_scale_inv")


Rounding = Callable[[str, np.ndarray], write.Written]
METHODS: dict[str, tuple[dict[str, Any], Rounding]] = {
    "AWQ": ({"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm"}, _awq),
    "GPTQ": ({"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False}, _gptq),
    "compressed-tensors-int4": (
        PACKED | {"format": "pack-quantized", "config_groups": {"group_0": GROUPS}},
        _symmetric,
    ),
    "compressed-tensors-int8": (
        PACKED | {"format": "int-quantized", "config_groups": {"group_0": ROWS}},
        _rows,
    ),
    "fp8": ({"quant_method": "fp8", "weight_block_size": [GROUP, GROUP]}, _fp8),
    "bitsandbytes-int8": ({"quant_method": "bitsandbytes", "load_in_8bit": True}, _bnb_int8),
}
