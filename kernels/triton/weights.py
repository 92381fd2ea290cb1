"""Weight formats of the GPU's linears: how they lie in memory and how a tile is read.

| format                | codes        | scales       | minimums     | weight                 |
| f32, f16, bf16        | [n, k]       |              |              | code                   |
| fp8 (e4m3), int8_g0   | [n, k]       | f32 [n]      |              | scale · code           |
| int8_g32              | int8 [n, k]  | f16 [n, k/32]|              | scale · code           |
| int4_g{32,64,128}     | uint8 [n, k/2] | f16 [n, k/G] |            | scale · (code − 8)     |
| int4_g{32,64,128}_min | uint8 [n, k/2] | f16 [n, k/G] | f16 [n, k/G] | scale · code + minimum |

int4: 16 bytes hold 32 k's: the low nibbles are the first 16, the high nibbles the others, so that a tile's
nibbles are two operands as they come.
"""

import re
from dataclasses import dataclass

import torch
import triton
import triton.language as tl

RUN = tl.constexpr(32)  # k's that share 16 bytes of int4


@dataclass(frozen=True, slots=True)
class Format:
    """A weight format, taken apart."""

    bits: int
    group_size: int = 0  # k's that share a scale; 0 = no groups
    has_minimum: bool = False
    has_row_scale: bool = False


def parse_format(name: str) -> Format:
    """The format called `name`; ValueError if there is none."""
    floats = {"f32": 32, "f16": 16, "bf16": 16}
    if name in floats:
        return Format(floats[name])
    if name in ("fp8", "int8_g0"):
        return Format(8, has_row_scale=True)
    if name == "int8_g32":
        return Format(8, 32)
    if match := re.fullmatch(r"int4_g(32|64|128)(_min)?", name):
        return Format(4, int(match[1]), match[2] is not None)
    raise ValueError(f"{name!r} is not a weight format of the GPU's kernels")


@dataclass(frozen=True, slots=True, eq=False)
class WeightTensors:
    """A matrix [n, k], or several [E, n, k], in a format: the table above."""

    codes: torch.Tensor
    scales: torch.Tensor | None = None
    minimums: torch.Tensor | None = None

    def args(self) -> dict[str, torch.Tensor | None]:
        """As arguments of a kernel."""
        return {"codes": self.codes, "scales": self.scales, "minimums": self.minimums}


def pack_int4(codes: torch.Tensor) -> torch.Tensor:
    """uint8 [..., k] of 0 … 15 as uint8 [..., k / 2]. ValueError unless k is a multiple of 32."""
    if codes.shape[-1] % RUN.value:
        raise ValueError(f"int4 rows are multiples of {RUN.value} long, not {codes.shape[-1]}")
    runs = codes.unflatten(-1, (-1, 2, RUN.value // 2))
    packed: torch.Tensor = (runs[..., 0, :] | runs[..., 1, :] << 4).flatten(-2)
    return packed


@triton.jit
def scale_codes(
    codes, scales, minimums, rows, first_k, row_mask,
    K: tl.constexpr, GROUP_SIZE: tl.constexpr, PER_BYTE: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """scale · code (+ minimum) in float32 for float32 codes [N, BLOCK_K / PER_BYTE] at k = first_k …."""
    GROUPS: tl.constexpr = BLOCK_K // GROUP_SIZE
    groups = first_k // GROUP_SIZE + tl.arange(0, GROUPS)
    offsets = rows[:, None] * (K // GROUP_SIZE) + groups[None, :]
    mask = row_mask[:, None] & (groups < K // GROUP_SIZE)[None, :]
    grouped = tl.reshape(codes, (codes.shape[0], GROUPS, GROUP_SIZE // PER_BYTE))
    grouped = grouped * tl.load(scales + offsets, mask=mask, other=0.0).to(tl.float32)[:, :, None]
    if minimums is not None:
        grouped += tl.load(minimums + offsets, mask=mask, other=0.0).to(tl.float32)[:, :, None]
    return tl.reshape(grouped, codes.shape)
