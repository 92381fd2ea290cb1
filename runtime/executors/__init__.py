"""The executors: each runs the program of one kind of target behind the protocol of `batch.Executor`."""

from pagedc.runtime.batch import Executor
from pagedc.runtime.config import EngineConfig
from pagedc.runtime.package import Package


def open_executor(package: Package, config: EngineConfig) -> Executor:
    """Load a package's program; raises PackageError or ExecutorError."""
    if package.manifest.target.kind == "cpu":
        from pagedc.runtime.executors.cpu import open_cpu_executor

        return open_cpu_executor(package, config)
    from pagedc.runtime.executors.cuda import open_cuda_executor

    return open_cuda_executor(package, config)
