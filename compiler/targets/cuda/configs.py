"""Which config each kernel runs with: what was tuned on a GPU, or the documented default."""

import importlib
from typing import Any


def triton_module(name: str) -> Any:
    """A file of kernels/triton. Imported here and not above: a compile for a CPU needs no Triton."""
    return importlib.import_module(f"pagedc.kernels.triton.{name}")


class Configs:
    """Looks a config up by kernel, spec and bucket."""

    def linear_spec(self, n: int, k: int, weight_format: str) -> Any:
        """A linear's spec. Into how many sums K is cut belongs to it, so that no bucket adds otherwise."""
        linear = triton_module("linear")
        return linear.LinearSpec(n=n, k=k, weight_format=weight_format)

    def of(self, kernel: str, spec: Any, bucket: int) -> Any:
        """The KernelConfig of a kernel of kernels/triton."""
        return triton_module(kernel).defaults(spec, bucket)
