"""Which config each kernel runs with: what was tuned on a GPU, or the documented default."""

import importlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any


def triton_module(name: str) -> Any:
    """A file of kernels/triton. Imported here and not above: a compile for a CPU needs no Triton."""
    return importlib.import_module(f"pagedc.kernels.triton.{name}")


class Configs:
    """Looks a config up by kernel, spec and size."""

    def __init__(
        self,
        chosen: Mapping[tuple[str, Any, int], Any] | None = None,
        slices: Mapping[Any, int] | None = None,
    ) -> None:
        """`chosen`: kernel, spec and size class → KernelConfig; `slices`: spec → slices of K."""
        self._chosen, self._slices = chosen or {}, slices or {}

    def linear_spec(self, n: int, k: int, weight_format: str) -> Any:
        """A linear's spec. Into how many sums K is cut belongs to it, so that no bucket adds otherwise."""
        linear = triton_module("linear")
        spec = linear.LinearSpec(n=n, k=k, weight_format=weight_format)
        return replace(spec, split_k=self._slices.get(spec, 0))

    def of(self, kernel: str, spec: Any, bucket: int) -> Any:
        """The KernelConfig of a kernel of kernels/triton."""
        base = replace(spec, split_k=0) if hasattr(spec, "split_k") else spec
        chosen = self._chosen.get((kernel, base, tier_of(bucket)))
        return triton_module(kernel).defaults(spec, bucket) if chosen is None else chosen


def tier_of(size: int) -> int:
    """The class of a size: 1, or a power of two of at least 16."""
    return 1 if size == 1 else max(16, 1 << (size - 1).bit_length())
