"""The linear of a mixture of experts: out[t · top_k + s] = W[expert_ids[t, s]] · x[t, s].

Rows (t, s) are sorted by expert first, so that an expert's weights are read once for all of its rows; a tile
of the product holds rows of one expert. Each row's sums are its own: neither their bits nor their place
depend on where the sort puts a row in its expert's tiles.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from pagedc.kernels.triton.device import let_next_start, wait_for_inputs
from pagedc.kernels.triton.launch import KernelConfig, Launch, ceil_div, config, next_power
from pagedc.kernels.triton.product import add_products
from pagedc.kernels.triton.weights import WeightTensors, parse_format


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupedSpec:
    """What is compiled in."""

    experts: int
    n: int
    k: int
    top_k: int
    shared_x: bool  # x is [T, k], shared by a token's slots; else [T * top_k, k]
    weight_format: str


def max_tiles(spec: GroupedSpec, num_tokens: int, block_t: int) -> int:
    """The most tiles that the rows can make: every expert may have one that is not full."""
    rows = num_tokens * spec.top_k
    return min(rows, rows // block_t + spec.experts)


def scratch_ints(spec: GroupedSpec, config: KernelConfig, num_tokens: int) -> int:
    """int32 values of the scratch: an expert a tile, a row a place, a cursor an expert."""
    block_t = config["BLOCK_T"]
    return max_tiles(spec, num_tokens, block_t) * (1 + block_t) + next_power(spec.experts)


def defaults(spec: GroupedSpec, bucket: int) -> KernelConfig:
    """Not tuned: tiles for twice as many rows as an expert has on average."""
    rows = max(next_power(ceil_div(2 * bucket * spec.top_k, spec.experts)), 16)
    if spec.weight_format == "f32":
        return config(4, 3, BLOCK_N=32, BLOCK_T=min(rows, 32), BLOCK_K=32)
    block_k = 128 if spec.weight_format.startswith("int4") or rows == 16 else 64
    if rows <= 64:
        return config(4, 4, BLOCK_N=64, BLOCK_T=rows, BLOCK_K=block_k)
    return config(8, 3, BLOCK_N=128, BLOCK_T=128, BLOCK_K=block_k)


def candidates(spec: GroupedSpec, bucket: int) -> list[KernelConfig]:
    """Rows of weights × rows of x × k's a tile × warps × stages."""
    is_int4 = spec.weight_format.startswith("int4")
    return [
        config(warps, stages, BLOCK_N=block_n, BLOCK_T=block_t, BLOCK_K=block_k)
        for block_n in (64, 128)
        for block_t in (16, 32, 64, 128)
        for block_k in ((128,) if is_int4 else (32, 64, 128))
        for warps in (4, 8)
        for stages in (2, 3, 4, 5)
        if block_t <= next_power(max(bucket * spec.top_k, 16))
    ]


def launch_grouped_linear(
    spec: GroupedSpec,
    config: KernelConfig,
    x: torch.Tensor,  # [T, k] or [T * top_k, k], any row stride
    expert_ids: torch.Tensor,  # int32 [T, top_k], any row stride
    weight: WeightTensors,  # [experts, n, k], any stride from expert to expert
    out: torch.Tensor,  # [T * top_k, n], any row stride
    scratch: torch.Tensor,  # int32 [scratch_ints]
    *,
    pdl: bool = False,
) -> list[Launch]:
    """Two launches: the sort, the product. The grid is for the most tiles that can be; the rest return."""
    num_tokens, block_t = expert_ids.shape[0], config["BLOCK_T"]
    tiles, weight_format = max_tiles(spec, num_tokens, block_t), parse_format(spec.weight_format)
    sort = Launch(
        sort_rows_kernel,
        (1, 1, 1),
        {
            "expert_ids": expert_ids,
            "scratch": scratch,
            "num_rows": num_tokens * spec.top_k,
            "max_tiles": tiles,
        },
        {
            "TOP_K": spec.top_k,
            "BLOCK_T": block_t,
            "IDS_STRIDE": expert_ids.stride(0),
            "EXPERTS": spec.experts,
            "BLOCK_E": max(next_power(spec.experts), 2),
            "BLOCK": 1024,
        },
        8,
        1,
        pdl,
    )
    product = Launch(
        grouped_linear_kernel,
        (ceil_div(spec.n, config["BLOCK_N"]), tiles, 1),
        {"x": x, **weight.args(), "scratch": scratch, "out": out, "max_tiles": tiles},
        {
            **{f"{name.upper()}_STRIDE": _stride(part) for name, part in weight.args().items()},
            "BLOCK_T": block_t,
            "X_STRIDE": x.stride(0),
            "ROWS_PER_X": spec.top_k if spec.shared_x else 1,
            "OUT_STRIDE": out.stride(0),
            "N": spec.n,
            "K": spec.k,
            "BITS": weight_format.bits,
            "GROUP_SIZE": weight_format.group_size,
            "HAS_ROW_SCALE": weight_format.has_row_scale,
            "BLOCK_N": config["BLOCK_N"],
            "BLOCK_K": config["BLOCK_K"],
        },
        config.num_warps,
        config.num_stages,
        pdl,
    )
    return [sort, product]


def _stride(part: torch.Tensor | None) -> int:
    return 0 if part is None else part.stride(0)


@triton.jit(do_not_specialize=["num_rows", "max_tiles"])
def sort_rows_kernel(
    expert_ids, scratch, num_rows, max_tiles,
    TOP_K: tl.constexpr, IDS_STRIDE: tl.constexpr, EXPERTS: tl.constexpr, BLOCK_T: tl.constexpr,
    BLOCK_E: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """One program. scratch: expert of each tile, -1 = none; row of each place, -1 = none; cursors."""
    experts = tl.arange(0, BLOCK_E)
    rows_at = scratch + max_tiles
    cursors = rows_at + max_tiles * BLOCK_T
    wait_for_inputs(PDL)
    let_next_start(PDL)
    sizes = tl.zeros((BLOCK_E,), tl.int32)
    for first in tl.range(0, num_rows, BLOCK):
        row = first + tl.arange(0, BLOCK)
        pointers = expert_ids + (row // TOP_K).to(tl.int64) * IDS_STRIDE + row % TOP_K
        ids = tl.load(pointers, mask=row < num_rows, other=0)
        sizes += tl.histogram(ids, BLOCK_E, mask=row < num_rows)
    tiles = tl.cdiv(sizes, BLOCK_T)
    ends = tl.cumsum(tiles, 0)
    tl.store(cursors + experts, (ends - tiles) * BLOCK_T)
    for first in tl.range(0, max_tiles, BLOCK):
        tile = first + tl.arange(0, BLOCK)
        tl.store(scratch + tile, -1, mask=tile < max_tiles)
    for first in tl.range(0, max_tiles * BLOCK_T, BLOCK):
        place = first + tl.arange(0, BLOCK)
        tl.store(rows_at + place, -1, mask=place < max_tiles * BLOCK_T)
    tl.debug_barrier()
    for first in tl.range(0, num_rows, BLOCK):
        row = first + tl.arange(0, BLOCK)
        mask = row < num_rows
        pointers = expert_ids + (row // TOP_K).to(tl.int64) * IDS_STRIDE + row % TOP_K
        expert = tl.load(pointers, mask=mask, other=0)
        place = tl.atomic_add(cursors + expert, 1, mask=mask, sem="relaxed", scope="cta")
        tl.store(rows_at + place, row, mask=mask)
        tl.store(scratch + place // BLOCK_T, expert, mask=mask)


@triton.jit(do_not_specialize=["max_tiles"])
def grouped_linear_kernel(
    x, codes, scales, minimums, scratch, out, max_tiles,
    CODES_STRIDE: tl.constexpr, SCALES_STRIDE: tl.constexpr, MINIMUMS_STRIDE: tl.constexpr,
    X_STRIDE: tl.constexpr, ROWS_PER_X: tl.constexpr, OUT_STRIDE: tl.constexpr,
    N: tl.constexpr, K: tl.constexpr, BITS: tl.constexpr, GROUP_SIZE: tl.constexpr,
    HAS_ROW_SCALE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr,
    PDL: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Grid (row tiles of the weights, tiles of rows)."""
    wait_for_inputs(PDL)
    let_next_start(PDL)
    expert = tl.load(scratch + tl.program_id(1)).to(tl.int64)
    if expert >= 0:
        place = tl.program_id(1) * BLOCK_T + tl.arange(0, BLOCK_T)
        row = tl.load(scratch + max_tiles + place)
        is_row = row >= 0
        row = tl.maximum(row, 0)
        x_offsets = (row // ROWS_PER_X).to(tl.int64) * X_STRIDE
        columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
        column_mask = columns < N
        weight_rows = columns.to(tl.int64)
        codes += expert * CODES_STRIDE
        if scales is not None:
            scales += expert * SCALES_STRIDE
        if minimums is not None:
            minimums += expert * MINIMUMS_STRIDE
        acc = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
        for first_k in tl.range(0, K, BLOCK_K):
            acc = add_products(
                acc, x, x_offsets, is_row, codes, scales, minimums, weight_rows, column_mask, first_k,
                K, BITS, GROUP_SIZE, N % BLOCK_N == 0, K % BLOCK_K == 0, BLOCK_K, "", INTERPRET,
            )  # fmt: skip
        if HAS_ROW_SCALE:
            acc *= tl.load(scales + weight_rows, mask=column_mask, other=0.0)[:, None]
        pointers = out + row.to(tl.int64)[:, None] * OUT_STRIDE + columns[None, :]
        tl.store(
            pointers, tl.trans(acc).to(out.dtype.element_ty), mask=is_row[:, None] & column_mask[None, :]
        )
