"""Matrices written as each method of quantised checkpoints documents it, in plain loops and numpy.

Each writer takes the stem of a module ("model.layers.0.mlp.up_proj.") and random bits, and gives the tensors
of the file and the weights [N, K] that the method's own formula makes of them. `pack_…` does so for given
codes, zeros and scales.
"""

import json
from typing import Any

import numpy as np
import torch

Written = tuple[dict[str, torch.Tensor], np.ndarray]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)
NF4 = np.sort(np.random.default_rng(7).uniform(-1, 1, 16)).astype(np.float32)
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)


def random_scales(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.uniform(0.002, 0.01, shape).astype(np.float16)


def words_along_last(codes: np.ndarray, bits: int) -> np.ndarray:
    """[rows, n] numbers as int32 words, one stream of bits a row, lowest first."""
    rows, columns = codes.shape
    words = np.zeros((rows, columns * bits // 32), np.uint32)
    for column in range(columns):
        for bit in range(bits):
            place = column * bits + bit
            words[:, place // 32] |= (((codes[:, column] >> bit) & 1) << (place % 32)).astype(np.uint32)
    return words.view(np.int32)


def awq(stem: str, rows: int, columns: int, rng: np.random.Generator, group: int = 64) -> Written:
    codes = rng.integers(0, 16, (columns, rows))
    zeros = rng.integers(0, 16, (columns // group, rows))
    return pack_awq(stem, codes, zeros, random_scales(rng, columns // group, rows))


def pack_awq(stem: str, codes: np.ndarray, zeros: np.ndarray, scales: np.ndarray) -> Written:
    """Codes [K, N], zeros and float16 scales [groups, N]."""

    def words(numbers: np.ndarray) -> torch.Tensor:
        packed = np.zeros((len(numbers), numbers.shape[1] // 8), np.uint32)
        for column in range(packed.shape[1]):
            for place, offset in enumerate(AWQ_ORDER):
                packed[:, column] |= (numbers[:, column * 8 + offset] << (4 * place)).astype(np.uint32)
        return torch.from_numpy(packed.view(np.int32))

    group = len(codes) // len(scales)
    wide = np.repeat(scales.astype(np.float32), group, 0)
    weights = (codes - np.repeat(zeros, group, 0)).astype(np.float32) * wide
    tensors = {"qweight": words(codes), "qzeros": words(zeros), "scales": torch.from_numpy(scales)}
    return {stem + name: tensor for name, tensor in tensors.items()}, weights.T


def gptq(
    stem: str,
    rows: int,
    columns: int,
    rng: np.random.Generator,
    bits: int = 4,
    group: int = 32,
    symmetric: bool = False,
    ordered: bool = False,
    form: str = "gptq",
) -> Written:
    codes = rng.integers(0, 1 << bits, (columns, rows))
    below = int(form == "gptq")
    low, high = (1 << (bits - 1), (1 << (bits - 1)) + 1) if symmetric else (below, 1 << bits)
    zeros = rng.integers(low, high, (columns // group, rows))
    scales = random_scales(rng, columns // group, rows)
    groups = np.arange(columns) // group
    if ordered:
        groups = rng.permutation(groups)
    return pack_gptq(stem, codes, zeros, scales, groups, bits, form)


def pack_gptq(
    stem: str,
    codes: np.ndarray,
    zeros: np.ndarray,
    scales: np.ndarray,
    groups: np.ndarray,
    bits: int = 4,
    form: str = "gptq",
) -> Written:
    """Codes [K, N], zeros and float16 scales [groups, N], and the group of each of the K."""
    weights = scales.astype(np.float32)[groups] * (codes - zeros[groups]).astype(np.float32)
    tensors = {
        "qweight": torch.from_numpy(words_along_last(codes.T, bits).T.copy()),
        "qzeros": torch.from_numpy(words_along_last(zeros - int(form == "gptq"), bits)),
        "scales": torch.from_numpy(scales),
        "g_idx": torch.from_numpy(groups.astype(np.int32)),
    }
    return {stem + name: tensor for name, tensor in tensors.items()}, weights.T


def pack_quantized(
    stem: str,
    rows: int,
    columns: int,
    rng: np.random.Generator,
    bits: int = 4,
    group: int | None = 128,
    symmetric: bool = True,
) -> Written:
    middle = 1 << (bits - 1)
    num_groups = columns // group if group else 1
    codes = rng.integers(-middle, middle, (rows, columns))
    scales = torch.from_numpy(rng.uniform(0.002, 0.01, (rows, num_groups))).bfloat16()
    zeros = None if symmetric else rng.integers(-middle, middle, scales.shape)
    return pack_words(stem, codes, zeros, scales, bits)


def pack_words(
    stem: str, codes: np.ndarray, zeros: np.ndarray | None, scales: torch.Tensor, bits: int
) -> Written:
    """Signed codes [N, K], zeros and scales [N, groups]."""
    middle, group = 1 << (bits - 1), codes.shape[1] // scales.shape[1]
    tensors = {
        "weight_packed": torch.from_numpy(words_along_last(codes + middle, bits)),
        "weight_scale": scales,
        "weight_shape": torch.tensor(codes.shape),
    }
    if zeros is not None:
        tensors["weight_zero_point"] = torch.from_numpy(words_along_last((zeros + middle).T, bits).T.copy())
        codes = codes - np.repeat(zeros, group, 1)
    weights = codes.astype(np.float32) * np.repeat(scales.float().numpy(), group, 1)
    return {stem + name: tensor for name, tensor in tensors.items()}, weights


def int_quantized(stem: str, rows: int, columns: int, rng: np.random.Generator) -> Written:
    codes = torch.from_numpy(rng.integers(-128, 128, (rows, columns), np.int8))
    scales = torch.from_numpy(rng.uniform(1e-4, 1e-3, (rows, 1)).astype(np.float32))
    return pack_rows(stem, codes, scales)


def pack_rows(stem: str, codes: torch.Tensor, scales: torch.Tensor) -> Written:
    """int8 codes [N, K] and float32 scales [N, 1]."""
    return {stem + "weight": codes, stem + "weight_scale": scales}, (codes.float() * scales).numpy()


def float_quantized(
    stem: str,
    rows: int,
    columns: int,
    rng: np.random.Generator,
    block: tuple[int, int] | None = None,
    name: str = "weight_scale",
) -> Written:
    values = torch.from_numpy(rng.normal(size=(rows, columns)).astype(np.float32)).to(torch.float8_e4m3fn)
    block = block or (1, columns)
    counts = [-(-size // step) for size, step in zip((rows, columns), block, strict=True)]
    scales = torch.from_numpy(rng.uniform(0.01, 0.1, counts).astype(np.float32))
    return pack_float8(stem, values, scales, block, name)


def pack_float8(
    stem: str, values: torch.Tensor, scales: torch.Tensor, block: tuple[int, int], name: str
) -> Written:
    """float8 values [N, K], a float32 scale for each block; the last of a row or column may be cut short."""
    rows, columns = values.shape
    wide = np.repeat(np.repeat(scales.numpy(), block[0], 0), block[1], 1)[:rows, :columns]
    return {stem + "weight": values, stem + name: scales}, values.float().numpy() * wide


def bnb_int8(stem: str, rows: int, columns: int, rng: np.random.Generator) -> Written:
    codes = torch.from_numpy(rng.integers(-127, 128, (rows, columns), np.int8))
    scb = torch.from_numpy(rng.uniform(0.05, 0.2, rows).astype(np.float32))
    return pack_bnb_int8(stem, codes, scb)


def pack_bnb_int8(stem: str, codes: torch.Tensor, scb: torch.Tensor) -> Written:
    """int8 codes [N, K] and the largest absolute value of each row, float32 [N]."""
    tensors = {"weight": codes, "SCB": scb, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    weights = codes.double().numpy() * scb.double().numpy()[:, None] / 127
    return {stem + name: tensor for name, tensor in tensors.items()}, weights.astype(np.float32)


def bnb_nf4(stem: str, rows: int, columns: int, rng: np.random.Generator, nested: bool = False) -> Written:
    codes = rng.integers(0, 16, rows * columns)
    packed = torch.from_numpy((codes[0::2] << 4 | codes[1::2]).astype(np.uint8)).reshape(-1, 1)
    num_blocks = rows * columns // 64
    state: dict[str, Any] = {
        "quant_type": "nf4",
        "blocksize": 64,
        "dtype": "bfloat16",
        "shape": [rows, columns],
    }
    tensors = {"weight": packed, "weight.quant_map": torch.from_numpy(NF4.copy())}
    if nested:
        inner = np.linspace(-1, 1, 256).astype(np.float32)
        absmax_codes = rng.integers(0, 256, num_blocks).astype(np.uint8)
        outer = rng.uniform(0.01, 0.02, -(-num_blocks // 256)).astype(np.float32)
        state |= {"nested_blocksize": 256, "nested_offset": 0.1, "nested_dtype": "float32"}
        absmax = inner[absmax_codes] * outer[np.arange(num_blocks) // 256] + np.float32(0.1)
        tensors |= {
            "weight.absmax": torch.from_numpy(absmax_codes),
            "weight.nested_absmax": torch.from_numpy(outer),
            "weight.nested_quant_map": torch.from_numpy(inner),
        }
    else:
        absmax = rng.uniform(0.05, 0.2, num_blocks).astype(np.float32)
        tensors["weight.absmax"] = torch.from_numpy(absmax)
    text = json.dumps(state).encode()
    tensors["weight.quant_state.bitsandbytes__nf4"] = torch.tensor(list(text), dtype=torch.uint8)
    weights = (NF4[codes] * absmax[np.arange(len(codes)) // 64]).reshape(rows, columns)
    return {stem + name: tensor for name, tensor in tensors.items()}, weights


def mxfp4(stem: str, shape: tuple[int, int, int], rng: np.random.Generator) -> Written:
    """Experts [E, N, K]; the weights come as the module has them, [E, K, N]."""
    codes = rng.integers(0, 16, shape)
    exponents = rng.integers(115, 124, (*shape[:2], shape[2] // 32))
    blocks = (codes[..., 0::2] | codes[..., 1::2] << 4).astype(np.uint8).reshape(*exponents.shape, 16)
    values = np.where(codes & 8, -1, 1) * E2M1[codes & 7]
    weights = values * np.repeat(2.0 ** (exponents - 127), 32, -1)
    tensors = {"_blocks": torch.from_numpy(blocks), "_scales": torch.from_numpy(exponents.astype(np.uint8))}
    return {stem + name: t for name, t in tensors.items()}, weights.astype(np.float32).swapaxes(1, 2)
