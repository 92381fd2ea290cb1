"""What a checkpoint is to the compiler: a config, tensors that are read when asked for, and tokenizer files.

Names are those of the Hugging Face causal LM's own parameters (and of the buffers that its state dict holds),
whatever the file calls them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol

import torch
from transformers import PretrainedConfig

from pagedc.compiler.checkpoint.purpose import Purpose

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


SPAN = 256  # weights of a row that share the units of int8 scales


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """Groups of `group_size` neighbours of the last axis, each with its scale, as kernels' packers take them.

    w = scale · code for 8 bits, scale · (code − 8) for 4 bits, scale · code + minimum with minimums.
    """

    codes: torch.Tensor  # [..., N, K]: int8 for 8 bits, uint8 in 0 … 15 for 4
    scales: torch.Tensor  # [..., N, K / group_size]: float16, float32 where that would round them, or int8
    minimums: torch.Tensor | None  # like scales
    group_size: int
    bits: int  # 4 or 8
    # What int8 scales and minimums are multiples of: float16 [..., N, K / 256 (· 2 with minimums, in turn)].
    units: torch.Tensor | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.codes.shape)

    @property
    def format(self) -> str:
        """The packed layout that holds its blocks as they are, in the words of the kernels."""
        if self.bits == 8 and self.minimums is None and self.group_size not in (16, 32, 64, 128):
            return "int8_g0"
        minimum = "" if self.minimums is None else "_min"
        scale = {torch.float32: "_f32", torch.int8: "_i8"}.get(self.scales.dtype, "")
        return f"int{self.bits}_g{self.group_size}{minimum}{scale}"

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "QuantizedTensor":
        """Codes, scales and minimums changed alike, in their leading axes: blocks stay bit for bit."""
        minimums, units = (None if part is None else change(part) for part in (self.minimums, self.units))
        return replace(
            self, codes=change(self.codes), scales=change(self.scales), minimums=minimums, units=units
        )

    def dequantize(self) -> torch.Tensor:
        """The same weights in float32."""
        one_level = self.one_level()
        shape = (*self.scales.shape, self.group_size)
        codes = self.codes.float().reshape(shape)
        if self.bits == 4 and self.minimums is None:
            codes -= 8
        weights = codes * one_level.scales.float().unsqueeze(-1)
        if one_level.minimums is not None:
            weights += one_level.minimums.float().unsqueeze(-1)
        return weights.reshape(self.shape)

    def one_level(self) -> "QuantizedTensor":
        """The same weights without units: where there were any, scales and minimums are float32."""
        if self.units is None:
            return self
        fields = 1 if self.minimums is None else 2
        units = self.units.float().reshape(*self.units.shape[:-1], -1, fields)
        units = units.repeat_interleave(SPAN // self.group_size, -2)
        minimums = None if self.minimums is None else self.minimums.float() * units[..., 1]
        return replace(self, scales=self.scales.float() * units[..., 0], minimums=minimums, units=None)


Stored = torch.Tensor | QuantizedTensor


def concatenate(parts: Sequence[QuantizedTensor]) -> QuantizedTensor:
    """Rows of all parts, which are of one format."""

    def joined(field: str) -> Any:
        whole = getattr(parts[0], field)
        return None if whole is None else torch.cat([getattr(part, field) for part in parts])

    codes, scales, minimums, units = map(joined, ("codes", "scales", "minimums", "units"))
    return replace(parts[0], codes=codes, scales=scales, minimums=minimums, units=units)


def exact_halves(*tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Float32 tensors as float16 where that loses nothing in any of them; as they are otherwise."""
    halves = tuple(tensor.half() for tensor in tensors)
    same = all(torch.equal(half.float(), whole) for half, whole in zip(halves, tensors, strict=True))
    return halves if same else tensors


class Checkpoint(Protocol):
    """A model as it lies on disk."""

    @property
    def name(self) -> str:
        """What the model is called, without its folder: "SmolLM2-135M-Instruct"."""

    @property
    def source(self) -> str:
        """Where it came from, for provenance: a path, a hub id with its revision, a package with its hash."""

    @property
    def config(self) -> PretrainedConfig: ...

    @property
    def dtype(self) -> Literal["float32", "bfloat16"]:
        """What `--dtype auto` means: float32 only if the checkpoint's own tensors are float32."""

    @property
    def quantization(self) -> str:
        """ "none", or the method ("gguf", "awq", …) where `read` gives quantized tensors."""

    @property
    def purpose(self) -> Purpose: ...

    @property
    def tokenizer_files(self) -> dict[str, bytes]:
        """Those of TOKENIZER_FILES that exist."""

    def names(self) -> list[str]:
        """Everything that can be read; tied tensors under each of their names."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Without reading the tensor. Raises CheckpointError for a name that is not held."""

    def read(self, name: str) -> torch.Tensor | QuantizedTensor:
        """The tensor, on the CPU, in the dtype of the file; CheckpointError for a name that is not held."""
