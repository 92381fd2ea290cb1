"""Round a matrix to integer codes, group by group, with the scale and minimum that lose least.

Four bits: a search over clipped ranges (the extremes of a group of 32 are often not worth their share of the
grid), then least squares: for given codes the best scale and minimum are a straight line through (code,
weight), and new ones give new codes (as in GGML's quantisers and HQQ). Each step is kept only where it lowers
the group's squared error after scale and minimum are rounded to float16.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch

from pagedc.compiler.checkpoint.base import QuantizedTensor, Stored

SHRINK = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8, 0.75)  # candidate ranges, as shares of the full one
REFINEMENTS = 4
GROUP = 32
ROUNDED_FORMATS = {"int8": "int8_g32", "int4": "int4_g32_min"}  # of --quantize
LEVELS = 15  # steps of a grid of 4 bits
CHUNK = 1 << 16  # weights searched at once: twice as fast as 2 M at once, which leave the cache


class _Grid(NamedTuple):
    """A rounding of groups [..., GROUP]; everything else is [...]."""

    error: torch.Tensor  # squared, of the group
    codes: torch.Tensor
    scales: torch.Tensor  # float16
    minimums: torch.Tensor  # float16


def quantize(tensor: torch.Tensor, name: str) -> QuantizedTensor:
    """Codes of a matrix [N, K]; `name` is `int8_g32` or `int4_g32_min`."""
    groups = tensor.float().reshape(tensor.shape[0], -1, GROUP)
    if name == "int8_g32":
        scales = (groups.abs().amax(-1) / 127).half()
        codes = torch.round(groups / _divisor(scales)).clamp(-127, 127).to(torch.int8)
        return QuantizedTensor(codes.reshape(tensor.shape), scales, None, GROUP, 8)
    rows = max(1, CHUNK // tensor.shape[1])
    found = _each(_search, torch.split(groups, rows))
    codes, scales, minimums = (torch.cat(parts) for parts in list(zip(*found, strict=True))[1:])
    return QuantizedTensor(codes.reshape(tensor.shape), scales, minimums, GROUP, 4)


def round_to(weight: Stored, held: str) -> torch.Tensor:
    """A matrix, or experts, as a packed layout holds it, in float32."""
    if isinstance(weight, QuantizedTensor):
        if weight.format == held:
            return weight.dequantize()
        weight = weight.dequantize()
    if held in ROUNDED_FORMATS.values():
        return quantize(weight.flatten(0, -2), held).dequantize().view(weight.shape)
    return weight.to(torch.bfloat16).float() if held.endswith("bf16") else weight.float()


def _each(work: Callable[[torch.Tensor], _Grid], chunks: Sequence[torch.Tensor]) -> list[_Grid]:
    """work(chunk) of each, a thread a chunk: threads that share an operation wait for each other at its end,
    and on a busy machine that took 12 times the processor time of one thread.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(work, chunks))
    finally:
        torch.set_num_threads(threads)


def _search(groups: torch.Tensor) -> _Grid:
    """The best grid of 16 levels for each group."""
    low, high = groups.amin(-1), groups.amax(-1)
    centre, half = (high + low) / 2, (high - low) / 2
    best = _round(groups, high - low, low)
    for share in SHRINK[1:]:
        best = _better(best, _round(groups, 2 * share * half, centre - share * half))
    for _ in range(REFINEMENTS):
        best = _better(best, _fit(groups, best))
    return best._replace(codes=best.codes.to(torch.uint8))


def _round(groups: torch.Tensor, span: torch.Tensor, minimum: torch.Tensor) -> _Grid:
    scales, minimums = (span / LEVELS).half(), minimum.half()
    codes = torch.round((groups - minimums.float()[..., None]) / _divisor(scales)).clamp_(0, LEVELS)
    rebuilt = codes * scales.float()[..., None] + minimums.float()[..., None]
    return _Grid((rebuilt - groups).square().sum(-1), codes, scales, minimums)


def _fit(groups: torch.Tensor, grid: _Grid) -> _Grid:
    """The line through (code, weight) of each group, and the codes nearest to it."""
    code_mean, mean = grid.codes.mean(-1), groups.mean(-1)
    codes = grid.codes - code_mean[..., None]
    slope = (codes * (groups - mean[..., None])).sum(-1) / codes.square().sum(-1).clamp_min(1e-6)
    return _round(groups, slope * LEVELS, mean - slope * code_mean)


def _better(best: _Grid, other: _Grid) -> _Grid:
    """Whichever of the two loses less, group by group."""
    better = other.error < best.error
    return _Grid(
        torch.where(better, other.error, best.error),
        torch.where(better[..., None], other.codes, best.codes),
        torch.where(better, other.scales, best.scales),
        torch.where(better, other.minimums, best.minimums),
    )


def _divisor(scales: torch.Tensor) -> torch.Tensor:
    wide = scales.float()[..., None]
    return torch.where(wide == 0, torch.ones_like(wide), wide)
