"""compressed-tensors: integers of 4 or 8 bits packed or plain, and float8.

weight_packed int32 [N, K · bits / 32] with weight_shape, or weight int8 or float8 [N, K]; weight_scale
[N, groups] (or one number, or blocks of float8); weight_zero_point, packed along N where the codes are.
Packed codes and zeros are stored with the middle added.
"""

from functools import partial
from typing import Any

import torch

from pagedc.compiler.checkpoint.base import Stored
from pagedc.compiler.checkpoint.quantized.base import (
    Infos,
    Packed,
    Source,
    Tensors,
    affine,
    need,
    only,
    parts_of,
    unpack_words,
)
from pagedc.compiler.checkpoint.quantized.fp8 import EXPANDED, expand

ROLES = {
    "packed": "weight_packed",
    "weight": "weight",
    "scales": "weight_scale",
    "zeros": "weight_zero_point",
    "groups": "weight_g_idx",
    "shape": "weight_shape",
}
FORMATS = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "dense")


def find(config: dict[str, Any], source: Source) -> dict[str, Packed]:
    """Every matrix of the file; which layers an entry of config_groups means is told by their tensors."""
    only(config, "format", *FORMATS, default="dense")
    groups = config.get("config_groups") or {}
    bits = {int((group.get("weights") or {}).get("num_bits", 8)) for group in groups.values()} or {8}
    infos = source.infos
    found = {}
    for key in infos:
        if not key.endswith(".weight_scale"):
            continue
        stem = key.removesuffix("weight_scale")
        parts = parts_of(infos, stem, ROLES)
        if "packed" in parts:
            shape = _packed_shape(infos, parts, bits)
            read = partial(_read_packed, columns=shape[1])
            why = "their groups are scattered (actorder)" if "groups" in parts else ""
            found[stem + "weight"] = Packed(shape, parts, read, why)
            continue
        need(parts, stem + "weight", "weight")
        info = infos[parts["weight"]]
        if info.dtype == "I8":
            found[stem + "weight"] = Packed(info.shape, parts, _read_plain)
        elif info.dtype.startswith("F8"):
            found[stem + "weight"] = Packed(info.shape, parts, expand, EXPANDED)
    return found


def _packed_shape(infos: Infos, parts: dict[str, str], bits: set[int]) -> tuple[int, int]:
    """[N, K]: the packed words' columns times the numbers in a word."""
    rows, words = infos[parts["packed"]].shape
    width = next(iter(bits)) if len(bits) == 1 else 4
    return rows, words * 32 // width


def _read_packed(tensors: Tensors, *, columns: int) -> Stored:
    bits = tensors["packed"].shape[1] * 32 // columns
    rows, true_columns = (int(size) for size in tensors["shape"]) if "shape" in tensors else (-1, columns)
    codes = unpack_words(tensors["packed"], bits)[:, :true_columns]
    zeros = None
    if "zeros" in tensors:
        zeros = unpack_words(tensors["zeros"].T, bits).T[:rows].contiguous()
    scales = tensors["scales"].float()
    if "groups" not in tensors or bool((tensors["groups"] < 0).all()):
        return affine(codes, zeros, scales, bits)
    groups = tensors["groups"].long()
    middle = torch.full_like(scales, 1 << (bits - 1)) if zeros is None else zeros.float()
    return scales[:, groups] * (codes.float() - middle[:, groups])


def _read_plain(tensors: Tensors) -> Stored:
    codes = (tensors["weight"].to(torch.int16) + 128).to(torch.uint8)
    scales = (
        tensors["scales"].float().reshape(-1, tensors["scales"].shape[-1] if tensors["scales"].ndim else 1)
    )
    scales = scales.expand(len(codes), -1).contiguous()
    zeros = None
    if "zeros" in tensors:
        zeros = (tensors["zeros"].to(torch.int16).reshape(-1, scales.shape[1]) + 128).expand(len(codes), -1)
    return affine(codes, zeros, scales, 8)
