"""What the pipeline asks of a target: how a program is printed, built and packed for one kind of machine."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from numpy.typing import NDArray

from pagedc.compiler.checkpoint.base import QuantizedTensor
from pagedc.compiler.program import Program
from pagedc.compiler.progress import Phase
from pagedc.compiler.rows.kernel import RowKernel
from pagedc.compiler.seal import PackageWriter
from pagedc.compiler.tuning import Tuning
from pagedc.runtime import manifest


@dataclass(frozen=True, slots=True)
class Facts:
    """What of the checkpoint and the options a program's text and kernels depend on."""

    name: str  # of the model
    version: str  # of pagedc
    dtype: Literal["float32", "bfloat16"]  # of weights that are no blocks, and of activations
    limits: manifest.Limits
    kv_dtype: Literal["float32", "bfloat16", "fp8"]


class WeightLayout(Protocol):
    """How a matrix lies in memory for the kernels of a target."""

    def holds(self, name: str) -> bool:
        """Whether its kernels read a format; blocks of any other are expanded."""
        ...

    def smaller(self, name: str) -> str | None:
        """A format that holds most matrices of `name` without loss in fewer bytes, if there is one."""
        ...

    def fits(self, tensor: torch.Tensor | QuantizedTensor, name: str) -> bool:
        """Whether that format holds this matrix [rows, columns]."""
        ...

    def packed_bytes(self, name: str, rows: int, columns: int) -> int:
        """Bytes of a matrix [rows, columns] in the format called `name`."""
        ...

    def pack(self, tensor: torch.Tensor | QuantizedTensor, name: str) -> NDArray[Any]:
        """The bytes of a matrix [rows, columns]: floats, or blocks of that format."""
        ...


class Target(Protocol):
    """One kind of machine. Making one raises ToolchainError where it could not build anything."""

    program: str  # the file of the package that a runtime loads
    block_size: int  # tokens in a block of the KV cache
    scratch_bytes: int  # that its kernels need beside the arenas, known once a program is emitted

    @property
    def layout(self) -> WeightLayout:
        """How its kernels read matrices."""
        ...

    def print_body(self, kernel: RowKernel) -> str:
        """A row kernel's statements: equal for equal kernels."""
        ...

    def tune(self, program: Program, facts: Facts, phase: Phase) -> None:
        """Time what may be chosen, or read it, for `emit` to print. Called where it was asked for.

        Raises OptionError, ToolchainError.
        """
        ...

    def emit(self, writer: PackageWriter, program: Program, facts: Facts) -> str:
        """Write the sources; returns what a person is told. The same program gives the same bytes."""
        ...

    def build(self, writer: PackageWriter) -> str:
        """Build what was emitted; returns what a person is told. Raises ToolchainError."""
        ...

    def kv_block_bytes(self, program: Program, facts: Facts) -> int:
        """Bytes of one block of the KV cache over all layers."""
        ...

    def state_bytes(self, program: Program) -> int:
        """Bytes of one sequence's state over all layers."""
        ...

    def describe(self) -> manifest.Target:
        """What the package runs on, for its manifest."""
        ...

    def tuning(self) -> Tuning:
        """What was timed, and chosen."""
        ...
