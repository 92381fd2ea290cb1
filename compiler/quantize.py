"""Round a matrix to integer codes, group by group, with the scale that loses least.

Round to nearest over a small search of clipped ranges per group, by squared error (as in GGML's quantisers
and in HQQ's grid start): the extremes of a group of 32 are often not worth their share of the grid.
"""

import torch

from pagedc.compiler.checkpoint.base import QuantizedTensor

SHRINK = (1.0, 0.96, 0.92, 0.88, 0.84, 0.8)  # candidate ranges, as shares of the full one
GROUP = 32


def quantize(tensor: torch.Tensor, name: str) -> QuantizedTensor:
    """Codes of a matrix [N, K]; `name` is `int8_g32` or `int4_g32_min`."""
    groups = tensor.float().reshape(tensor.shape[0], -1, GROUP)
    if name == "int8_g32":
        scales = (groups.abs().amax(-1) / 127).half()
        codes = torch.round(groups / _divisor(scales)).clamp(-127, 127).to(torch.int8)
        return QuantizedTensor(codes.reshape(tensor.shape), scales, None, GROUP, 8)
    low, high = groups.amin(-1), groups.amax(-1)
    best: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor] | None = None
    for share in SHRINK:
        centre, half = (high + low) / 2, (high - low) / 2 * share
        minimums, scales = (centre - half).half(), (2 * half / 15).half()
        codes = torch.round((groups - minimums.float()[..., None]) / _divisor(scales)).clamp(0, 15)
        rebuilt = codes * scales.float()[..., None] + minimums.float()[..., None]
        error = (rebuilt - groups).square().sum(-1)
        if best is None:
            best = error, codes, scales, minimums
            continue
        better = error < best[0]
        best = (
            torch.where(better, error, best[0]),
            torch.where(better[..., None], codes, best[1]),
            torch.where(better, scales, best[2]),
            torch.where(better, minimums, best[3]),
        )
    if best is None:
        raise ValueError("no candidate range")
    return QuantizedTensor(best[1].to(torch.uint8).reshape(tensor.shape), best[2], best[3], GROUP, 4)


def _divisor(scales: torch.Tensor) -> torch.Tensor:
    wide = scales.float()[..., None]
    return torch.where(wide == 0, torch.ones_like(wide), wide)
