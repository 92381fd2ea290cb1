"""What a package launches: each kernel of the program for each size of a step, and what of it is compiled.

kernels.json holds, for each kernel that model.py names, the dimension its grid depends on (S, T or R) and for
each bucket of it a list of launches. A launch names a binary, a grid and its arguments: numbers, or a
parameter of the kernel with an offset in bytes.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal

import torch

from pagedc.compiler.errors import InternalError

Dimension = Literal["S", "T", "R"]
TORCH_TYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "int32": torch.int32,
    "bool": torch.int32,
    "int64": torch.int64,
    "uint8": torch.uint8,
    "float16": torch.float16,
    "int8": torch.int8,
    "fp8": torch.float8_e4m3fn,
}


@dataclass(frozen=True, slots=True)
class Binary:
    """A kernel function with everything that is compiled in."""

    module: str  # of the package: "linear"
    function: str
    signature: tuple[tuple[str, str], ...]  # parameter → type, "constexpr" for constants
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[str, ...]  # pointers that are multiples of 16 bytes
    num_warps: int
    num_stages: int
    pdl: bool


@dataclass(slots=True)
class Arguments:
    """Stand-ins, without memory, for what a kernel of the program is given."""

    places: dict[int, tuple[str, int]] = field(default_factory=dict)  # storage → parameter, bytes
    kept: list[torch.Tensor] = field(default_factory=list)
    num_bytes: dict[str, int] = field(default_factory=dict)  # parameter → what is asked for

    def tensor(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: str,
        *,
        stride: int | None = None,
        start: int = 0,
        offset: int = 0,
    ) -> torch.Tensor:
        """The parameter `name`, `start` bytes into it; rows `stride` apart; `offset` elements are added to
        every address of it, as a view of a wider row has them.
        """
        strides = torch.empty(shape, device="meta").stride()
        if stride is not None:
            strides = (stride, *strides[1:])
        whole = torch.empty(1, dtype=TORCH_TYPES[dtype], device="meta")
        self.places[whole.untyped_storage()._cdata] = name, start
        self.kept.append(whole)
        size = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True)) + 1
        num_bytes = max(size, 1) * whole.element_size()
        whole.untyped_storage().resize_(num_bytes)
        self.num_bytes[name] = max(self.num_bytes.get(name, 0), start + num_bytes)
        return whole.as_strided(shape, strides, offset)

    def spell(self, value: Any) -> Any:
        """An argument of a launch as kernels.json has it."""
        if not isinstance(value, torch.Tensor):
            return value
        place = self.places.get(value.untyped_storage()._cdata)
        if place is None:
            raise InternalError("a kernel is launched on a tensor that it was not given")
        return [place[0], place[1] + value.storage_offset() * value.element_size()]


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel of the program: `make` gives its launches for a size of its dimension."""

    name: str
    dimension: Dimension
    make: Callable[[Arguments, int], list[Any]]  # Launches of kernels.triton.launch, or what looks like one


class LaunchTable:
    """Collects kernels; equal binaries are one."""

    def __init__(self, pdl: bool) -> None:
        self.pdl = pdl
        self.binaries: dict[Binary, int] = {}
        self.kernels: dict[str, Any] = {}
        self.scratch_bytes = {"scratch": 0, "counters": 0}

    def add(self, kernel: Kernel, buckets: list[int]) -> None:
        """Plan a kernel for every bucket."""
        sizes = {}
        for bucket in buckets:
            sizes[str(bucket)], _ = self.plan(kernel, bucket)
        self.kernels[kernel.name] = {"dimension": kernel.dimension, "launches": sizes}

    def plan(self, kernel: Kernel, bucket: int) -> tuple[list[dict[str, Any]], Arguments]:
        """The launches of a kernel for one bucket, and what they are given."""
        arguments = Arguments()
        launches = [self._launch(launch, arguments) for launch in kernel.make(arguments, bucket)]
        for name, most in self.scratch_bytes.items():
            self.scratch_bytes[name] = max(most, arguments.num_bytes.get(name, 0))
        return launches, arguments

    def all_launches(self) -> Iterable[list[dict[str, Any]]]:
        """Of every kernel and bucket."""
        return (launches for kernel in self.kernels.values() for launches in kernel["launches"].values())

    def _launch(self, launch: Any, arguments: Arguments) -> dict[str, Any]:
        signature = launch.signature()
        constants = launch.all_constexprs() | {"INTERPRET": False}
        order = launch.kernel.arg_names
        places = {name: index for index, name in enumerate(order)}
        binary = Binary(
            launch.kernel.fn.__module__.rsplit(".", 1)[-1],
            launch.kernel.fn.__name__,
            tuple((name, signature[name]) for name in order),
            tuple(sorted((name, _plain(value)) for name, value in constants.items())),
            tuple(sorted(order[key[0]] for key in launch.attributes())),
            launch.num_warps,
            launch.num_stages,
            launch.pdl,
        )
        given = sorted(
            (name for name, value in launch.args.items() if value is not None), key=places.__getitem__
        )
        return {
            "binary": self.binaries.setdefault(binary, len(self.binaries)),
            "grid": list(launch.grid),
            "args": [arguments.spell(launch.args[name]) for name in given],
        }


def global_scratch_bytes(launches: Iterable[list[dict[str, Any]]], binaries: list[dict[str, Any]]) -> int:
    """What the neediest launch wants beside its arguments: Triton keeps tensor descriptors there."""
    sizes: list[int] = [
        prod(launch["grid"]) * int(binaries[launch["binary"]].get("global_scratch", 0))
        for of_kernel in launches
        for launch in of_kernel
    ]
    return max(sizes, default=0)


def _plain(value: Any) -> Any:
    """A constant as JSON has it; a function by its module and name."""
    if hasattr(value, "fn"):
        return f"{value.fn.__module__.rsplit('.', 1)[-1]}:{value.fn.__name__}"
    return value


def dump(value: Any) -> bytes:
    """JSON, the same bytes for the same value; one line a launch."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return text.replace('{"binary"', '\n{"binary"').replace('],"binaries"', '],\n"binaries"').encode() + b"\n"
