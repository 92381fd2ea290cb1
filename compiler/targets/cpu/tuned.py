"""The tiles that a program's linears take: of a file, of what this machine has timed before, or timed now."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

import pagedc.templates as templates
from pagedc.compiler.checkpoint.demo import cache_directory
from pagedc.compiler.errors import OptionError
from pagedc.compiler.program import Program
from pagedc.compiler.progress import Phase
from pagedc.compiler.targets.cpu import toolchain
from pagedc.compiler.targets.cpu.candidates import NAMES, Constants, Shape, tiers
from pagedc.compiler.targets.cpu.tune import source_files, tune
from pagedc.compiler.tuning import Mode, TunedKernel, Tuning, TuningCache, read_tuning, source_hash
from pagedc.kernels.cpu.layout import parse_format
from pagedc.runtime.manifest import Limits


class Tiles(NamedTuple):
    """What model.cpp says of one shape."""

    arguments: str  # "BF16, 960, 576"
    format: str  # "BF16"
    constants: Constants


def linear_shapes(program: Program, limits: Limits) -> list[Shape]:
    """The distinct linears of a program."""
    shapes = [
        Shape(
            call.weights[0].format,
            call.constants["n"],
            call.constants["k"],
            call.constants.get("stripes", 1),
            limits.max_num_seqs if call.outputs[0].domain == "row" else limits.max_num_batched_tokens,
        )
        for call in program.calls
        if call.kind == "linear"
    ]
    return list(dict.fromkeys(shapes))


def tuned(
    shapes: Sequence[Shape], level: str, threads: int, mode: Mode, file: Path | None, phase: Phase
) -> Tuning:
    """A row for each kernel and bucket. Raises OptionError for a file that cannot be read, ToolchainError."""
    if file is not None:
        tuning = read_tuning(file)
        rows = _rows_of(shapes, tuning.kernels)
        phase.note(f"{len(rows)} kernels of {file}")
        return msgspec.structs.replace(tuning, kernels=rows)
    template = Path(templates.__path__[0]) / "cpu" / "tune.cpp.jinja"
    source = source_hash([*source_files(), template], toolchain.version(), level, *toolchain.FLAGS)
    cache = TuningCache(cache_directory(), toolchain.device_name(), source, threads, mode)
    known = cache.load()
    have = {row.shape for row in known.kernels} if known is not None else set()
    missing = [shape for shape in shapes if any(name not in have for name in _row_names(shape))]
    if known is None or missing:
        known = tune(missing or shapes, level, threads, mode, source, phase)
        cache.store(known)
        known = cache.load() or known
    else:
        phase.note(f"{len(shapes)} linears, as this machine timed them before")
    return msgspec.structs.replace(known, kernels=_rows_of(shapes, known.kernels))


def tiles_of(shapes: Sequence[Shape], tuning: Tuning) -> list[Tiles]:
    """What differs from the defaults: one specialisation for each format and shape. Raises OptionError."""
    rows = {row.shape: row for row in tuning.kernels}
    found: dict[str, Tiles] = {}
    for shape in shapes:
        constants: Constants = {}
        for name in _row_names(shape):
            if name in rows:
                constants |= _checked(rows[name])
        if constants:
            kind = parse_format(shape.format).cpp_type
            found[shape.cpp] = Tiles(shape.cpp, kind, constants)
    return list(found.values())


def _checked(row: TunedKernel) -> Constants:
    """They are printed into a program: known names and small numbers only."""
    for name, value in row.constants.items():
        if name not in NAMES or not 0 <= value <= 1 << 16:
            raise OptionError(f"the tuning of {row.shape} has {name} = {value}, which no linear takes")
    return row.constants


def _rows_of(shapes: Sequence[Shape], rows: Sequence[TunedKernel]) -> list[TunedKernel]:
    by_name = {row.shape: row for row in rows if row.kernel == "linear"}
    names = dict.fromkeys(name for shape in shapes for name in _row_names(shape))
    return [by_name[name] for name in names if name in by_name]


def _row_names(shape: Shape) -> list[str]:
    return [shape.row(tokens) for tier in tiers(shape, full=False) for tokens in tier.buckets]
