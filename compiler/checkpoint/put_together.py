"""Tensors of the module that are made from several of the file: experts one by one, fused projections.

The conversions are transformers' own and know only plain tensors. One that just moves and joins whole rows
does the same to codes, to scales and to minimums, so it is run on each; anything else is run on floats.
"""

from collections.abc import Callable, Mapping

import torch

from pagedc.compiler.checkpoint.base import QuantizedTensor, Stored, exact_halves

Convert = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]


def put_together(parts: Mapping[str, Stored], convert: Convert) -> Stored:
    """`convert` applied to quantized parts without a loss where that can be, else to their floats."""
    quantized = {key: part for key, part in parts.items() if isinstance(part, QuantizedTensor)}
    kinds = {(part.bits, part.group_size, part.minimums is None) for part in quantized.values()}
    if len(quantized) == len(parts) and len(kinds) == 1 and (made := _by_fields(quantized, convert)):
        return made
    return convert({key: as_floats(part) for key, part in parts.items()})


def as_floats(stored: Stored) -> torch.Tensor:
    """A tensor in floats: float32 where it was quantized."""
    return stored.dequantize() if isinstance(stored, QuantizedTensor) else stored


def _by_fields(parts: Mapping[str, QuantizedTensor], convert: Convert) -> QuantizedTensor | None:
    """The quantized result, or None where the conversion does more than move whole rows."""
    if len({part.units is None for part in parts.values()}) > 1:
        parts = {key: part.one_level() for key, part in parts.items()}
    first = next(iter(parts.values()))
    try:
        codes = convert({key: part.codes for key, part in parts.items()})
        scales = convert({key: part.scales.float() for key, part in parts.items()})
        minimums, units = (
            None
            if getattr(first, field) is None
            else convert({key: _floats(getattr(part, field)) for key, part in parts.items()})
            for field in ("minimums", "units")
        )
    except (RuntimeError, ValueError, IndexError, TypeError):
        return None  # it needs the shape of floats
    groups = (*codes.shape[:-1], codes.shape[-1] // first.group_size)
    kept = torch.equal(_census(codes), sum(_census(part.codes) for part in parts.values()))  # type: ignore[arg-type]
    if tuple(scales.shape) != groups or codes.dtype != first.codes.dtype or not kept:
        return None
    if units is not None:
        scales, units = scales.to(torch.int8), units.half()
        minimums = None if minimums is None else minimums.to(torch.int8)
    elif all(part.scales.dtype == torch.float16 for part in parts.values()):
        scales, *rest = exact_halves(scales, *(() if minimums is None else (minimums,)))
        minimums = rest[0] if rest else None
    return QuantizedTensor(codes.contiguous(), scales, minimums, first.group_size, first.bits, units)


def _floats(part: torch.Tensor | None) -> torch.Tensor:
    if part is None:
        raise ValueError("a group without a minimum")
    return part.float()


def _census(codes: torch.Tensor) -> torch.Tensor:
    """How often each code occurs."""
    return torch.bincount(codes.reshape(-1).view(torch.uint8), minlength=256)
