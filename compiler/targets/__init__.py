"""The targets: each prints, builds and packs a program for one kind of machine."""

from importlib.util import find_spec

from pagedc.compiler.errors import ToolchainError
from pagedc.compiler.options import CompileOptions
from pagedc.compiler.targets.base import Target


def open_target(options: CompileOptions) -> Target:
    """The target that was asked for. Raises ToolchainError where this machine cannot build for it."""
    if options.target.startswith("cuda"):
        if find_spec("triton") is None:  # asked here: the module of the target imports it
            raise ToolchainError("a package for a GPU needs Triton: pip install triton")
        from pagedc.compiler.targets.cuda.target import CudaTarget

        return CudaTarget(options)
    from pagedc.compiler.targets.cpu.target import CpuTarget

    return CpuTarget(options)
