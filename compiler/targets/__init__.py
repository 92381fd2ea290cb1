"""The targets: each prints, builds and packs a program for one kind of machine."""

from pagedc.compiler.options import CompileOptions
from pagedc.compiler.targets.base import Target


def open_target(options: CompileOptions) -> Target:
    """The target that was asked for. Raises ToolchainError where this machine cannot build for it."""
    if options.target.startswith("cuda"):
        from pagedc.compiler.targets.cuda.target import CudaTarget

        return CudaTarget(options)
    from pagedc.compiler.targets.cpu.target import CpuTarget

    return CpuTarget(options)
