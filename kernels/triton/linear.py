"""out[t, n] = Σ_k x[t, k] · W[n, k], then an epilogue.

Weights are the product's first operand and tokens its second, at any number of tokens: the tensor cores
then see instructions of one kind, and with the cut of K fixed by the spec, an output's bits do not depend on
the batch. Few tokens: each slice of K has programs of its own, whose sums the last one to arrive adds in
order. Many tokens: a program walks all slices and adds their sums in that order; where the config says so, it
walks several tiles too and reads by descriptors (linear_persistent.py), which adds the same.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl

from pagedc.kernels.triton.device import let_next_start, prefetch, wait_for_inputs
from pagedc.kernels.triton.launch import KernelConfig, Launch, ceil_div, config, is_aligned, next_power
from pagedc.kernels.triton.linear_persistent import linear_persistent_kernel
from pagedc.kernels.triton.linear_tile import finish, place_tile
from pagedc.kernels.triton.product import add_products
from pagedc.kernels.triton.weights import WeightTensors, parse_format

SLICE_ALIGNMENT = 128  # k's; a slice is a whole number of tiles
MAX_EXTRA = 6  # further arguments of an epilogue
SKINNY = 256  # tokens up to which weights are read once
SMS = (132, 148)  # of an H100 or H200, and of a B200: programs of a persistent kernel


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearSpec:
    """What is compiled in. split_k, the slices of K, is one for all buckets; 0 = the default."""

    n: int
    k: int
    weight_format: str
    split_k: int = 0

    @property
    def slice_k(self) -> int:
        """k's of a slice."""
        wanted = self.split_k or default_split_k(self.n, self.k)
        return ceil_div(ceil_div(self.k, wanted), SLICE_ALIGNMENT) * SLICE_ALIGNMENT

    @property
    def num_slices(self) -> int:
        """Slices that K is cut into."""
        return ceil_div(self.k, self.slice_k)


def default_split_k(n: int, k: int) -> int:
    """Slices for 1024 programs of 64 rows by 1024 k's, or for 256 by 256: work for 132 SMs. Not tuned."""
    tiles = ceil_div(n, 64)
    long_slices, short_slices = min(1024 // tiles, k // 1024), min(ceil_div(256, tiles), k // 256)
    return min(max(long_slices, short_slices, 1), 8)


def scratch_sizes(spec: LinearSpec, config: KernelConfig, num_tokens: int) -> tuple[int, int]:
    """(float32 values of `partial`, int32 values of `counters`) of a launch; zeros where it needs none."""
    if not config["SLICED"] or spec.num_slices == 1:
        return 0, 0
    tiles = ceil_div(spec.n, config["BLOCK_N"]) * ceil_div(num_tokens, config["BLOCK_T"])
    return spec.num_slices * num_tokens * spec.n, tiles


def defaults(spec: LinearSpec, bucket: int) -> KernelConfig:
    """Not tuned: 64 rows of weights by all tokens up to 256; above that 128 by 128, or by 256 if unsliced."""
    tokens = max(next_power(bucket), 16)
    if spec.weight_format == "f32":
        return config(4, 3, BLOCK_N=32, BLOCK_T=min(tokens, 32), BLOCK_K=32, SLICED=int(tokens <= SKINNY))
    block_k = 128 if spec.weight_format.startswith("int4") or tokens == 16 else 64
    if tokens <= 64:
        return config(4, 5, BLOCK_N=64, BLOCK_T=tokens, BLOCK_K=block_k, SLICED=1)
    if tokens <= SKINNY:
        return config(4 if tokens <= 128 else 8, 3, BLOCK_N=64, BLOCK_T=tokens, BLOCK_K=block_k, SLICED=1)
    if spec.num_slices == 1 and block_k == 64:
        return config(8, 3, BLOCK_N=128, BLOCK_T=256, BLOCK_K=64, SLICED=0)
    is_grouped = parse_format(spec.weight_format).group_size > 0  # scaling wants registers
    return config(8, 3, BLOCK_N=128, BLOCK_T=64 if is_grouped else 128, BLOCK_K=block_k, SLICED=0)


def candidates(spec: LinearSpec, bucket: int) -> list[KernelConfig]:
    """Rows × tokens × k's a tile × warps × stages.

    Rows are 64 or 128, so that every candidate uses the same kind of instruction; int4 adds a tile's nibbles
    in two halves, so its k's are one choice.
    """
    tokens = max(next_power(bucket), 16)
    skinny = tokens <= SKINNY
    is_int4 = spec.weight_format.startswith("int4")
    pointers = [
        config(warps, stages, BLOCK_N=block_n, BLOCK_T=block_t, BLOCK_K=block_k, SLICED=int(skinny))
        for block_n in (64, 128)
        for block_t in ((tokens,) if tokens <= 64 else (64, 128, 256))
        for block_k in ((128,) if is_int4 else (32, 64, 128))
        for warps in (4, 8)
        for stages in (2, 3, 4, 5, 6)
        if block_t <= tokens
    ]
    return pointers + ([] if skinny or spec.weight_format == "f32" else _persistent_candidates(spec))


def _persistent_candidates(spec: LinearSpec) -> list[KernelConfig]:
    if parse_format(spec.weight_format).group_size:
        return []
    return [
        config(8, stages, BLOCK_N=128, BLOCK_T=block_t, BLOCK_K=64, SLICED=0, PROGRAMS=programs)
        for block_t in (128, 256)
        for stages in (3, 4)
        for programs in SMS
    ]


def reads_by_descriptors(spec: LinearSpec, config: KernelConfig, x: torch.Tensor) -> bool:
    """Whether the config wants it and rows begin at multiples of 16 bytes.

    Of float32 weights only in tests.
    """
    weight_format = parse_format(spec.weight_format)
    strides = x.stride(0) * x.element_size(), spec.k * weight_format.bits // 8
    fits = is_aligned(x) and all(stride % 16 == 0 for stride in strides)
    return "PROGRAMS" in config and not weight_format.group_size and fits


def launch_linear(
    spec: LinearSpec,
    config: KernelConfig,
    x: torch.Tensor,  # [T, k], any row stride
    weight: WeightTensors,
    out: torch.Tensor | None,  # [T, n], any row stride; None if the epilogue stores elsewhere
    partial: torch.Tensor | None = None,  # float32 [scratch_sizes[0]]
    counters: torch.Tensor | None = None,  # int32 [scratch_sizes[1]]: zeros, and zeros again afterwards
    *,
    epilogue: Any = None,
    extra: tuple[torch.Tensor, ...] = (),
    pdl: bool = False,
) -> list[Launch]:
    """One launch.

    epilogue: a @triton.jit function (acc float32 [BLOCK_T, BLOCK_N], tokens int64 [BLOCK_T], token_mask,
    first_column, out, e0, …, e5) that stores; e0 … are `extra`, None beyond. Without one,
    out[tokens, columns] = acc.
    """
    if reads_by_descriptors(spec, config, x):
        return [_persistent(spec, config, x, weight, out, epilogue, extra, pdl)]
    num_tokens, weight_format = x.shape[0], parse_format(spec.weight_format)
    is_sliced = bool(config["SLICED"]) and spec.num_slices > 1
    if is_sliced and (partial is None or counters is None):
        raise ValueError(f"a linear of {spec.num_slices} slices wants partial and counters")
    block_n, block_t, block_k = (config[name] for name in ("BLOCK_N", "BLOCK_T", "BLOCK_K"))
    token_tiles = ceil_div(num_tokens, block_t)
    return [
        Launch(
            linear_kernel,
            (ceil_div(spec.n, block_n) * token_tiles, spec.num_slices if is_sliced else 1, 1),
            {
                "x": x,
                **weight.args(),
                "out": out,
                "partial": partial if is_sliced else None,
                "counters": counters if is_sliced else None,
                **_extras(extra),
                "num_tokens": num_tokens,
            },
            {
                "X_STRIDE": x.stride(0),
                "OUT_STRIDE": 0 if out is None else out.stride(0),
                "N": spec.n,
                "K": spec.k,
                "SLICE_K": spec.slice_k,
                "NUM_SLICES": spec.num_slices,
                "BITS": weight_format.bits,
                "GROUP_SIZE": weight_format.group_size,
                "HAS_ROW_SCALE": weight_format.has_row_scale,
                "EPILOGUE": epilogue,
                "EVICTION": "evict_first" if config["SLICED"] and token_tiles == 1 else "",
                "BLOCK_N": block_n,
                "BLOCK_T": block_t,
                "BLOCK_K": block_k,
            },
            config.num_warps,
            config.num_stages,
            pdl,
        )
    ]


def _extras(extra: tuple[torch.Tensor, ...]) -> dict[str, torch.Tensor | None]:
    if len(extra) > MAX_EXTRA:
        raise ValueError(f"an epilogue has {MAX_EXTRA} further arguments at most, not {len(extra)}")
    return {f"e{i}": extra[i] if i < len(extra) else None for i in range(MAX_EXTRA)}


def _persistent(
    spec: LinearSpec,
    config: KernelConfig,
    x: torch.Tensor,
    weight: WeightTensors,
    out: torch.Tensor | None,
    epilogue: Any,
    extra: tuple[torch.Tensor, ...],
    pdl: bool,
) -> Launch:
    tiles = ceil_div(spec.n, config["BLOCK_N"]) * ceil_div(x.shape[0], config["BLOCK_T"])
    args = {"x": x, "codes": weight.codes, "scales": weight.scales, "out": out}
    return Launch(
        linear_persistent_kernel,
        (min(tiles, config["PROGRAMS"]), 1, 1),
        {**args, **_extras(extra), "num_tokens": x.shape[0]},
        {
            "X_STRIDE": x.stride(0),
            "OUT_STRIDE": 0 if out is None else out.stride(0),
            "N": spec.n,
            "K": spec.k,
            "SLICE_K": spec.slice_k,
            "NUM_SLICES": spec.num_slices,
            "HAS_ROW_SCALE": parse_format(spec.weight_format).has_row_scale,
            "EPILOGUE": epilogue,
            **{name: config[name] for name in ("BLOCK_N", "BLOCK_T", "BLOCK_K")},
        },
        config.num_warps,
        config.num_stages,
        pdl,
    )


@triton.jit(do_not_specialize=["num_tokens"])
def linear_kernel(
    x, codes, scales, minimums, out, partial, counters, e0, e1, e2, e3, e4, e5, num_tokens,
    X_STRIDE: tl.constexpr, OUT_STRIDE: tl.constexpr, N: tl.constexpr, K: tl.constexpr,
    SLICE_K: tl.constexpr, NUM_SLICES: tl.constexpr, BITS: tl.constexpr, GROUP_SIZE: tl.constexpr,
    HAS_ROW_SCALE: tl.constexpr, EPILOGUE: tl.constexpr, EVICTION: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr,
    PDL: tl.constexpr, INTERPRET: tl.constexpr,
):  # fmt: skip
    """Grid (tiles, slices or 1)."""
    EVEN_N: tl.constexpr = N % BLOCK_N == 0
    EVEN_K: tl.constexpr = K % BLOCK_K == 0
    tile = tl.program_id(0)
    row_tile, token_tile = place_tile(tile, num_tokens, N, BLOCK_N, BLOCK_T)
    rows = row_tile * BLOCK_N + tl.arange(0, BLOCK_N)
    row_mask = rows < N
    wide_rows = rows.to(tl.int64)
    tokens = token_tile * BLOCK_T + tl.arange(0, BLOCK_T)
    token_mask = tokens < num_tokens
    x_offsets = tokens.to(tl.int64) * X_STRIDE

    ROW_ELEMENTS: tl.constexpr = K // 2 if BITS == 4 else K
    if PDL:
        first_column = tl.program_id(1) * (ROW_ELEMENTS // NUM_SLICES)
        prefetch(codes + tl.minimum(wide_rows, N - 1) * ROW_ELEMENTS + first_column)
    wait_for_inputs(PDL)
    let_next_start(PDL)
    total = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
    if partial is None:
        for first in tl.range(0, K, SLICE_K):
            acc = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
            for first_k in tl.range(first, min(first + SLICE_K, K), BLOCK_K):
                acc = add_products(
                    acc, x, x_offsets, token_mask, codes, scales, minimums, wide_rows, row_mask, first_k,
                    K, BITS, GROUP_SIZE, EVEN_N, EVEN_K, BLOCK_K, EVICTION, INTERPRET,
                )  # fmt: skip
            total += acc
        finish(
            total, scales, row_tile, rows, row_mask, tokens, token_mask, out, e0, e1, e2, e3, e4, e5,
            OUT_STRIDE, HAS_ROW_SCALE, EPILOGUE,
        )  # fmt: skip
    else:
        slice_ = tl.program_id(1)
        first = slice_ * SLICE_K
        for first_k in tl.range(first, min(first + SLICE_K, K), BLOCK_K):
            total = add_products(
                total, x, x_offsets, token_mask, codes, scales, minimums, wide_rows, row_mask, first_k,
                K, BITS, GROUP_SIZE, EVEN_N, EVEN_K, BLOCK_K, EVICTION, INTERPRET,
            )  # fmt: skip
        offsets = tokens.to(tl.int64)[None, :] * N + rows[:, None]
        mask = row_mask[:, None] & token_mask[None, :]
        slice_size = num_tokens.to(tl.int64) * N
        tl.store(partial + slice_ * slice_size + offsets, total, mask=mask)
        tl.debug_barrier()  # all of this program's sums are written before it is counted
        arrived = tl.atomic_add(counters + tile, 1, sem="acq_rel")
        if arrived == NUM_SLICES - 1:
            tl.debug_barrier()
            total = tl.zeros((BLOCK_N, BLOCK_T), tl.float32)
            for i in tl.range(0, NUM_SLICES):
                total += tl.load(
                    partial + i * slice_size + offsets, mask=mask, other=0.0, cache_modifier=".cg"
                )
            tl.store(counters + tile, 0)
            finish(
                total, scales, row_tile, rows, row_mask, tokens, token_mask, out, e0, e1, e2, e3, e4, e5,
                OUT_STRIDE, HAS_ROW_SCALE, EPILOGUE,
            )  # fmt: skip
