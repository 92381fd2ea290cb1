"""out[t] = W[ids[t]]: rows of a table in any weight format, dequantised in float32."""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from pagedc.kernels.triton.device import let_next_start, wait_for_inputs
from pagedc.kernels.triton.launch import KernelConfig, Launch, ceil_div, config
from pagedc.kernels.triton.weights import RUN, WeightTensors, parse_format


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingSpec:
    """What is compiled in."""

    vocab_size: int
    width: int
    weight_format: str


def defaults(spec: EmbeddingSpec, bucket: int) -> KernelConfig:
    """Not tuned: 1024 columns a program."""
    return config(4, 1, BLOCK=1024)


def candidates(spec: EmbeddingSpec, bucket: int) -> list[KernelConfig]:
    """Columns × warps."""
    return [config(warps, 1, BLOCK=block) for block in (256, 512, 1024, 2048) for warps in (1, 2, 4)]


def launch_embedding(
    spec: EmbeddingSpec,
    config: KernelConfig,
    ids: torch.Tensor,  # [T] int32, each in [0, vocab_size)
    weight: WeightTensors,  # [vocab_size, width]
    out: torch.Tensor,  # [T, width], any row stride
    *,
    pdl: bool = False,
) -> list[Launch]:
    """One launch."""
    weight_format = parse_format(spec.weight_format)
    return [
        Launch(
            embedding_kernel,
            (ids.shape[0], ceil_div(spec.width, config["BLOCK"]), 1),
            {"ids": ids, **weight.args(), "out": out},
            {
                "OUT_STRIDE": out.stride(0),
                "WIDTH": spec.width,
                "BITS": weight_format.bits,
                "GROUP_SIZE": weight_format.group_size,
                "HAS_ROW_SCALE": weight_format.has_row_scale,
                "BLOCK": config["BLOCK"],
            },
            config.num_warps,
            config.num_stages,
            pdl,
        )
    ]


@triton.jit
def embedding_kernel(
    ids, codes, scales, minimums, out,
    OUT_STRIDE: tl.constexpr, WIDTH: tl.constexpr, BITS: tl.constexpr, GROUP_SIZE: tl.constexpr,
    HAS_ROW_SCALE: tl.constexpr, BLOCK: tl.constexpr,
    PDL: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Grid (T, blocks of columns)."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = column < WIDTH
    wait_for_inputs(PDL)
    let_next_start(PDL)
    row = tl.load(ids + token).to(tl.int64)
    if BITS == 4:
        HALF: tl.constexpr = RUN // 2
        place = column // RUN * HALF + column % HALF
        packed = tl.load(codes + row * (WIDTH // 2) + place, mask=mask, other=0)
        values = ((packed >> (column % RUN // HALF * 4).to(tl.uint8)) & 15).to(tl.float32)
        if minimums is None:
            values -= 8.0
    else:
        values = tl.load(codes + row * WIDTH + column, mask=mask, other=0).to(tl.float32)
    if HAS_ROW_SCALE:
        values *= tl.load(scales + row)
    elif GROUP_SIZE > 0:
        group = row * (WIDTH // GROUP_SIZE) + column // GROUP_SIZE
        values *= tl.load(scales + group, mask=mask, other=0.0).to(tl.float32)
        if minimums is not None:
            values += tl.load(minimums + group, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + token * OUT_STRIDE + column, values.to(out.dtype.element_ty), mask=mask)
