"""A kernel, its grid and its arguments: what is compiled ahead of time, captured or interpreted."""

from dataclasses import dataclass, field
from typing import Any

import torch
import triton

TYPES = {
    torch.float32: "fp32",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.int32: "i32",
    torch.uint32: "u32",
    torch.int64: "i64",
}
ALIGNMENT = 16  # bytes; a pointer known to be so aligned is read in vectors


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """One point of a kernel's search space: the constants that are free to choose, warps and stages."""

    constexprs: tuple[tuple[str, int], ...] = ()
    num_warps: int = 4
    num_stages: int = 3

    def __getitem__(self, name: str) -> int:
        """The constant called `name`."""
        return dict(self.constexprs)[name]

    def __contains__(self, name: str) -> bool:
        return any(key == name for key, _ in self.constexprs)


def config(num_warps: int, num_stages: int, **constexprs: int) -> KernelConfig:
    """A KernelConfig in one line."""
    return KernelConfig(tuple(constexprs.items()), num_warps, num_stages)


@dataclass(frozen=True, slots=True, eq=False)
class Launch:
    """One kernel at work.

    args are the parameters of the compiled kernel, in order: tensors (on `meta` too: only dtype and place in
    the storage are looked at to compile), ints and floats; None is a parameter that the kernel was compiled
    without. constexprs are compiled in. The grid never depends on values on the device, so a captured launch
    serves every batch of its bucket.
    """

    kernel: Any
    grid: tuple[int, int, int]
    args: dict[str, Any]
    constexprs: dict[str, Any] = field(default_factory=dict)
    num_warps: int = 4
    num_stages: int = 3
    pdl: bool = False  # programmatic dependent launch: sm_90 and later

    @property
    def name(self) -> str:
        """Of the kernel function."""
        return str(self.kernel.__name__)

    @property
    def pointers(self) -> list[str]:
        """The names of the arguments that are parameters, in order."""
        return [name for name, value in self.args.items() if value is not None]

    def signature(self) -> dict[str, str]:
        """The type of every parameter, as `ASTSource` wants it."""
        types = {name: argument_type(value) for name, value in self.args.items()}
        return types | dict.fromkeys(self.all_constexprs(), "constexpr")

    def all_constexprs(self) -> dict[str, Any]:
        """The constants, with what is None and what the launch itself says."""
        absent = {name: None for name, value in self.args.items() if value is None}
        return absent | self.constexprs | {"PDL": self.pdl, "INTERPRET": is_interpreted()}

    def attributes(self) -> dict[tuple[int], list[list[Any]]]:
        """`ASTSource`'s attrs: which pointers are aligned to 16 bytes."""
        names = {name: i for i, name in enumerate(self.kernel.arg_names)}
        return {
            (names[name],): [["tt.divisibility", ALIGNMENT]]
            for name, value in self.args.items()
            if isinstance(value, torch.Tensor) and is_aligned(value)
        }

    def options(self) -> dict[str, Any]:
        """`triton.compile`'s options."""
        options: dict[str, Any] = {"num_warps": self.num_warps, "num_stages": self.num_stages}
        return options | ({"launch_pdl": True} if self.pdl else {})

    def run(self) -> None:
        """Launch through Triton: the interpreter, or a GPU with Triton's own compiler (tests, tuner)."""
        self.kernel[self.grid](**self.args, **(self.constexprs | self.own_constexprs()), **self.options())

    def own_constexprs(self) -> dict[str, Any]:
        """What every kernel has."""
        return {"PDL": self.pdl, "INTERPRET": is_interpreted()}


def argument_type(value: Any) -> str:
    """Triton's name for the type of an argument; TypeError for a value that is no argument."""
    match value:
        case None:
            return "constexpr"
        case torch.Tensor():
            return "*" + TYPES[value.dtype]
        case int():
            return "i64" if value >= 2**31 else "i32"
        case float():
            return "fp32"
    raise TypeError(f"{value!r} cannot be a kernel's argument")


def is_aligned(tensor: torch.Tensor) -> bool:
    """Whether the tensor starts at a multiple of 16 bytes; a storage does."""
    return tensor.storage_offset() * tensor.element_size() % ALIGNMENT == 0


def is_interpreted() -> bool:
    """Whether kernels run under Triton's interpreter: TRITON_INTERPRET=1 when triton was imported."""
    return bool(triton.knobs.runtime.interpret)


def run_all(launches: list[Launch]) -> None:
    """Run launches in order."""
    for launch in launches:
        launch.run()


def ceil_div(a: int, b: int) -> int:
    """⌈a / b⌉."""
    return -(-a // b)


def next_power(n: int) -> int:
    """The smallest power of two that is at least n."""
    return 1 << max(n - 1, 0).bit_length()
