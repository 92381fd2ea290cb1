"""What a checkpoint is to the compiler: a config, tensors that are read when asked for, and tokenizer files.

Names are those of the Hugging Face causal LM's own parameters (and of the buffers that its state dict holds),
whatever the file calls them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from transformers import PretrainedConfig

from pagedc.compiler.checkpoint.purpose import Purpose

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json")


@dataclass(frozen=True, slots=True)
class QuantizedTensor:
    """Groups of `group_size` neighbours of the last axis, each with its scale, as kernels' packers take them.

    w = scale · code for 8 bits, scale · (code − 8) for 4 bits, scale · code + minimum with minimums.
    """

    codes: torch.Tensor  # [..., N, K]: int8 for 8 bits, uint8 in 0 … 15 for 4
    scales: torch.Tensor  # float16, or float32 where that would round them, [..., N, K / group_size]
    minimums: torch.Tensor | None  # like scales
    group_size: int
    bits: int  # 4 or 8

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.codes.shape)

    @property
    def format(self) -> str:
        """The packed layout that holds its blocks as they are, in the words of the kernels."""
        if self.bits == 8 and self.minimums is None and self.group_size not in (16, 32, 64, 128):
            return "int8_g0"
        minimum = "" if self.minimums is None else "_min"
        scale = "_f32" if self.scales.dtype == torch.float32 else ""
        return f"int{self.bits}_g{self.group_size}{minimum}{scale}"

    def map(self, change: Callable[[torch.Tensor], torch.Tensor]) -> "QuantizedTensor":
        """Codes, scales and minimums changed alike, in their leading axes: blocks stay bit for bit."""
        minimums = None if self.minimums is None else change(self.minimums)
        return QuantizedTensor(change(self.codes), change(self.scales), minimums, self.group_size, self.bits)

    def dequantize(self) -> torch.Tensor:
        """The same weights in float32."""
        shape = (*self.scales.shape, self.group_size)
        codes = self.codes.float().reshape(shape)
        if self.bits == 4 and self.minimums is None:
            codes -= 8
        weights = codes * self.scales.float().unsqueeze(-1)
        if self.minimums is not None:
            weights += self.minimums.float().unsqueeze(-1)
        return weights.reshape(self.shape)


Stored = torch.Tensor | QuantizedTensor


def concatenate(parts: Sequence[QuantizedTensor]) -> QuantizedTensor:
    """Rows of all parts, which are of one format."""
    first = parts[0]
    minimums = None
    if first.minimums is not None:
        minimums = torch.cat([part.minimums for part in parts if part.minimums is not None])
    codes, scales = torch.cat([part.codes for part in parts]), torch.cat([part.scales for part in parts])
    return QuantizedTensor(codes, scales, minimums, first.group_size, first.bits)


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
