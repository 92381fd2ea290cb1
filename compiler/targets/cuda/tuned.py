"""The configs of a program's kernels: of a file, of what this machine has timed before, or timed now."""

from pathlib import Path

import msgspec

import pagedc.kernels.triton as triton_kernels
from pagedc.compiler.checkpoint.demo import cache_directory
from pagedc.compiler.errors import OptionError, ToolchainError
from pagedc.compiler.options import CompileOptions
from pagedc.compiler.progress import Phase
from pagedc.compiler.targets.cuda.arch import INTERPRETER, Gpu, gpu_here
from pagedc.compiler.targets.cuda.kernels import Kernels
from pagedc.compiler.targets.cuda.points import Point, is_tunable
from pagedc.compiler.targets.cuda.tune import tune
from pagedc.compiler.tuning import Tuning, TuningCache, read_tuning, source_hash


def tuned(kernels: Kernels, points: list[Point], arch: str, options: CompileOptions, phase: Phase) -> Tuning:
    """A row for each kernel and size class.

    Raises OptionError for a file that cannot be read or is another chip's, ToolchainError without a GPU.
    """
    source = _source()
    if options.tuning is not None:
        return _of_file(options.tuning, arch, source, points, phase)
    gpu = _gpu_for(arch)
    cache = TuningCache(cache_directory(), gpu.name, source, 0, options.tune)
    known = cache.load()
    have = set() if known is None else {(row.kernel, row.shape) for row in known.kernels}
    missing = [p for p in points if is_tunable(p.spec) and (p.kernel, p.shape) not in have]
    if known is None or missing:
        # Sizes share what they must: a kernel of which one size is missing is timed again at all.
        kinds = {(point.kernel, point.spec) for point in missing}
        again = [point for point in points if (point.kernel, point.spec) in kinds]
        cache.store(tune(kernels, again, gpu, options.tune, options.threads, source, phase))
        known = cache.load()
        if known is None:
            raise ToolchainError(f"{cache.path} cannot be written: what was timed would be lost")
    else:
        phase.note(f"{len(points)} kernels, as {gpu.name} timed them before")
    return _rows(known, points)


def _of_file(path: Path, arch: str, source: str, points: list[Point], phase: Phase) -> Tuning:
    tuning = read_tuning(path)
    if tuning.arch != arch:
        whose = f"{tuning.device} ({tuning.arch})" if tuning.arch else f"a CPU, {tuning.device}"
        raise OptionError(f"{path} was timed on {whose}: a package for {arch} cannot use it")
    found = _rows(tuning, points)
    older = "" if tuning.source == source else ", timed with other versions of them"
    phase.note(f"{len(found.kernels)} of {len(points)} kernels, of {path}{older}")
    return found


def _gpu_for(arch: str) -> Gpu:
    gpu = gpu_here()
    if arch == INTERPRETER:
        raise OptionError("the interpreter has nothing to tune: give --tune none")
    if gpu is None:
        raise ToolchainError(
            "there is no GPU here to time kernels on: give --tuning FILE of a machine with one, or no --tune"
        )
    if gpu.arch != arch:
        raise ToolchainError(f"the GPU here, {gpu.name}, is {gpu.arch}: no place to time kernels for {arch}")
    return gpu


def _rows(tuning: Tuning, points: list[Point]) -> Tuning:
    by_key = {(row.kernel, row.shape): row for row in tuning.kernels}
    keys = dict.fromkeys((point.kernel, point.shape) for point in points)
    return msgspec.structs.replace(tuning, kernels=[by_key[key] for key in keys if key in by_key])


def _source() -> str:
    """Of the kernels' text and of Triton, which compiles it."""
    from importlib.metadata import version

    (folder,) = triton_kernels.__path__
    return source_hash(Path(folder).glob("*.py"), version("triton"))
