"""What a method of quantised checkpoints is: which tensors of the file make up a matrix, and how."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from pagedc.compiler.checkpoint.base import QuantizedTensor, Stored, exact_halves
from pagedc.compiler.checkpoint.shards import TensorInfo
from pagedc.compiler.errors import CheckpointError, UnsupportedError

Tensors = Mapping[str, torch.Tensor]
Infos = Mapping[str, TensorInfo]
GROUPS = (128, 64, 32, 16)  # that the kernels have


@dataclass(frozen=True, slots=True)
class Packed:
    """One matrix of the module."""

    shape: tuple[int, ...]  # as the module has it
    parts: dict[str, str]  # role → key in the file
    read: Callable[[Tensors], Stored]  # from tensors by role
    expanded: str = ""  # why it is not kept in integers; "" where it is


class Source(Protocol):
    """A file's tensors under the file's own names."""

    @property
    def infos(self) -> Infos: ...

    def read(self, key: str) -> torch.Tensor: ...


# From quantization_config and a file to the weights that are quantised, by name.
Method = Callable[[dict[str, Any], Source], dict[str, Packed]]


def parts_of(infos: Infos, stem: str, roles: Mapping[str, str]) -> dict[str, str]:
    """Role → key for those of `roles` (role → what follows the stem) that the file holds."""
    return {role: stem + suffix for role, suffix in roles.items() if stem + suffix in infos}


def need(parts: Mapping[str, str], stem: str, *roles: str) -> None:
    """Raises CheckpointError for a role that the file does not hold."""
    for role in roles:
        if role not in parts:
            raise CheckpointError(f"{stem}: its {role} are missing from the file")


def only(values: Mapping[str, Any], key: str, *allowed: Any, default: Any) -> Any:
    """A setting, which is one of those that are read; UnsupportedError for another."""
    value = values.get(key, default)
    if value not in allowed:
        raise UnsupportedError(
            f"quantization_config: {key} is {value!r}, pagedc reads {', '.join(map(repr, allowed))}"
        )
    return value


def unpack_words(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Words of 32 bits [..., n] as the numbers of `bits` bits [..., n · 32 / bits] in them, lowest first.

    A number of 3 bits may lie in two words: a run of 3 words is one stream of 32 numbers.
    """
    stream = np.unpackbits(words.contiguous().numpy().view(np.uint8), axis=-1, bitorder="little")
    numbers = stream.reshape(*words.shape[:-1], -1, bits)
    return torch.from_numpy(np.packbits(numbers, axis=-1, bitorder="little")[..., 0])


def affine(codes: torch.Tensor, zeros: torch.Tensor | None, scales: torch.Tensor, bits: int) -> Stored:
    """scale · (code − zero) in our form, exactly.

    codes uint8 [N, K] of `bits` bits; zeros [N, groups] integers, None = the middle; scales [N, groups].
    Zeros that are all one number go into the codes; others become float32 minimums, for a product of a scale
    and a zero has more bits than float16.
    """
    middle = 1 << (bits - 1)
    wide = 4 if bits <= 4 else 8
    codes, scales, zeros = _regroup(codes, scales, zeros, keep_rows=bits == 8)
    group_size = codes.shape[1] // scales.shape[1]
    zero = middle if zeros is None else int(zeros.flatten()[0])
    shifted = codes.to(torch.int16) + ((8 if wide == 4 else 0) - zero)
    low, high = (0, 15) if wide == 4 else (-128, 127)
    fits = low <= int(shifted.min()) and int(shifted.max()) <= high
    scales = scales.float()
    if (zeros is None or bool((zeros == zero).all())) and fits:
        kept = shifted.to(torch.uint8 if wide == 4 else torch.int8)
        if group_size not in GROUPS:  # a row
            return QuantizedTensor(kept, scales, None, group_size, 8)
        (scales,) = exact_halves(scales)
        return QuantizedTensor(kept, scales, None, group_size, wide)
    offsets = zeros if zeros is not None else torch.full_like(scales, middle)
    if wide == 8:
        codes, offsets = (codes.to(torch.int16) - 128).to(torch.int8), offsets - 128
    scales, minimums = exact_halves(scales, -scales * offsets.float())
    return QuantizedTensor(codes, scales, minimums, group_size, wide)


def _regroup(
    codes: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor | None, *, keep_rows: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """Groups that the kernels have: a larger one is several with the same scale.

    `keep_rows`: a whole row around one zero is a group too.
    """
    columns, num_groups = codes.shape[1], scales.shape[1]
    group_size = columns // num_groups
    if columns % num_groups:
        raise UnsupportedError(
            f"groups of a matrix of {columns} columns: {num_groups}, which does not divide"
        )
    whole_row = num_groups == 1 and (zeros is None or bool((zeros == zeros.flatten()[0]).all()))
    if group_size in GROUPS or (whole_row and keep_rows):
        return codes, scales, zeros
    size = next((size for size in GROUPS if group_size % size == 0), None)
    if size is None:
        raise UnsupportedError(f"groups of {group_size} weights: pagedc has 16, 32, 64 and 128")
    repeats = group_size // size
    repeated = None if zeros is None else zeros.repeat_interleave(repeats, 1)
    return codes, scales.repeat_interleave(repeats, 1), repeated
