"""Time the candidates of each linear on this machine, and choose.

One library holds every candidate of every shape. Rounds go through all of them in turn, so that a machine
that drifts drifts for each; a probe of read bandwidth and of the products' peak stands beside each round.
Weights lie in copies that exceed the caches, as a model's other weights push them out.
"""

import ctypes
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pagedc.kernels.cpu as cpu_kernels
from pagedc.compiler.errors import ToolchainError
from pagedc.compiler.progress import Phase
from pagedc.compiler.render import environment
from pagedc.compiler.targets.cpu import toolchain
from pagedc.compiler.targets.cpu.candidates import Constants, Shape, Tier, spelled, tiers
from pagedc.compiler.tuning import BUDGETS, Mode, TunedKernel, Tuning
from pagedc.kernels.cpu.layout import packed_bytes, parse_format

ARENA_BYTES = 192 << 20
SAMPLE_SECONDS = 2e-3  # of calls in a row: one is too short to be timed
MIN_ROUNDS, MAX_ROUNDS = 3, 15
PEAK_ITERATIONS = 200_000
GAIN = 1.03  # below it, or where a quarter of the rounds say otherwise, the default stays


@dataclass(slots=True)
class _Sample:
    """One candidate of one shape in one bucket."""

    shape: Shape
    tokens: int
    constants: Constants
    symbol: str
    seconds: list[float] = field(default_factory=list)


@dataclass(slots=True)
class _Probes:
    """The machine's limits, once a round."""

    reads: list[float] = field(default_factory=list)  # bytes a second
    peaks: dict[str, list[float]] = field(default_factory=lambda: {"f32": [], "bf16": []})


def source_files() -> list[Path]:
    """The kernels' text."""
    return sorted(Path(cpu_kernels.__path__[0]).glob("*.h"))


def tune(shapes: Sequence[Shape], level: str, threads: int, mode: Mode, source: str, phase: Phase) -> Tuning:
    """Time every shape within the mode's budget. Raises ToolchainError."""
    full = mode == "full"
    plan = {shape: tiers(shape, full=full) for shape in dict.fromkeys(shapes)}
    samples, probes = [], _Probes()
    begin = time.perf_counter()
    if plan:
        with tempfile.TemporaryDirectory(prefix="pagedc-tune-") as folder:
            samples = _time(Path(folder), plan, level, threads, BUDGETS[mode], probes, phase, begin)
    rows = [
        row
        for shape, shape_tiers in plan.items()
        for tier in shape_tiers
        for row in _choose(shape, tier, samples, probes)
    ]
    phase.note(f"{len(rows)} kernels, {len(samples)} candidates timed in {time.perf_counter() - begin:.0f} s")
    return Tuning(
        device=toolchain.device_name(),
        mode=mode,
        kernels=rows,
        read_bandwidth=statistics.median(probes.reads) if probes.reads else None,
        peak=statistics.median(probes.peaks["bf16"]) if probes.peaks["bf16"] else None,
        threads=threads,
        source=source,
    )


def _time(
    folder: Path,
    plan: dict[Shape, list[Tier]],
    level: str,
    threads: int,
    budget: float,
    probes: _Probes,
    phase: Phase,
    begin: float,
) -> list[_Sample]:
    samples: list[_Sample] = []
    symbols: dict[tuple[str, tuple[tuple[str, int], ...]], str] = {}
    for shape, shape_tiers in plan.items():
        for tier in shape_tiers:
            for constants in tier.candidates:
                key = (shape.symbol, tuple(constants.items()))
                symbol = symbols.setdefault(key, f"{shape.symbol}_{len(symbols)}")
                samples += [_Sample(shape, tokens, constants, symbol) for tokens in tier.buckets]
    library = _build(folder, samples, level)
    columns = max(shape.columns for shape in plan)
    tokens = max(sample.tokens for sample in samples)
    out = max(sample.shape.rows * sample.tokens for sample in samples)
    arena = max(ARENA_BYTES, *(2 * _stride(shape) for shape in plan))
    sizes = [-(-size // (1 << 21)) << 21 for size in (arena, tokens * (columns + 32) * 4, out * 4)]
    bench = ctypes.c_void_p(library.tune_create(threads, *map(ctypes.c_int64, sizes)))
    if not bench:
        raise ToolchainError(f"no memory to time kernels: {sum(sizes)} bytes; give --tune none")
    try:
        calls = {id(sample): _calls(library, bench, sample, sizes[0]) for sample in samples}
        for number in range(MAX_ROUNDS):
            spent = time.perf_counter() - begin
            phase.note(f"round {number + 1}, {spent:.0f} of {budget:.0f} s")
            if number >= MIN_ROUNDS and spent * (number + 1) / number > budget:
                break
            probes.reads.append(sizes[0] / library.tune_read(bench))
            for kind, peaks in probes.peaks.items():
                peaks.append(getattr(library, f"tune_peak_{kind}")(bench, ctypes.c_int64(PEAK_ITERATIONS)))
            for sample in samples:
                sample.seconds.append(_call(library, bench, sample, sizes[0], calls[id(sample)]))
    finally:
        library.tune_destroy(bench)
    return samples


def _build(folder: Path, samples: list[_Sample], level: str) -> ctypes.CDLL:
    distinct = {sample.symbol: sample for sample in samples}
    candidates = [
        {
            "symbol": symbol,
            "type": parse_format(sample.shape.format).cpp_type,
            "arguments": f"{sample.shape.cpp}, {sample.shape.stripes}",
            "constants": sample.constants,
        }
        for symbol, sample in distinct.items()
    ]
    text = environment().get_template("cpu/tune.cpp.jinja").render(candidates=candidates)
    source, output = folder / "tune.cpp", folder / "tune.so"
    source.write_text(text)
    toolchain.compile_library(source, output, level, Path(cpu_kernels.__path__[0]))
    library = ctypes.CDLL(str(output))
    library.tune_create.restype = ctypes.c_void_p
    library.tune_destroy.restype = None
    for name in ("tune_read", "tune_peak_f32", "tune_peak_bf16", *(f"time_{symbol}" for symbol in distinct)):
        getattr(library, name).restype = ctypes.c_double
    return library


def _stride(shape: Shape) -> int:
    return -(-packed_bytes(shape.format, shape.rows, shape.columns) // 64) * 64


def _call(library: ctypes.CDLL, bench: ctypes.c_void_p, sample: _Sample, arena: int, calls: int) -> float:
    stride = _stride(sample.shape)
    arguments = (ctypes.c_int64(sample.tokens), ctypes.c_int64(stride), arena // stride, calls)
    seconds: float = getattr(library, f"time_{sample.symbol}")(bench, *arguments)
    return seconds


def _calls(library: ctypes.CDLL, bench: ctypes.c_void_p, sample: _Sample, arena: int) -> int:
    """How many calls fill a sample; the first also brings code and pages in."""
    return max(1, math.ceil(SAMPLE_SECONDS / _call(library, bench, sample, arena, 1)))


def _choose(shape: Shape, tier: Tier, samples: list[_Sample], probes: _Probes) -> list[TunedKernel]:
    """A row for each bucket of a tier; the choice is the tier's, by the geometric mean over its buckets."""
    found = {
        (sample.tokens, tuple(sample.constants.items())): sample
        for sample in samples
        if sample.shape == shape
    }

    def speedups(tokens: int, constants: Constants) -> list[float]:
        """Over the default, of each round: what drifts drifts for both."""
        default, chosen = found[tokens, ()].seconds, found[tokens, tuple(constants.items())].seconds
        return [a / b for a, b in zip(default, chosen, strict=True)]

    def gains(constants: Constants) -> list[float]:
        each = [speedups(tokens, constants) for tokens in tier.buckets]
        return sorted(statistics.geometric_mean(of_round) for of_round in zip(*each, strict=True))

    best = max(tier.candidates, key=lambda constants: statistics.median(gains(constants)))
    if statistics.median(gains(best)) < GAIN or gains(best)[len(gains(best)) // 4] < 1:
        best = tier.candidates[0]
    rows = []
    for tokens in tier.buckets:
        seconds = statistics.median(found[tokens, tuple(best.items())].seconds)
        num_bytes = packed_bytes(shape.format, shape.rows, shape.columns)
        operations = 2.0 * shape.rows * shape.columns * tokens
        read = num_bytes / statistics.median(probes.reads)
        kind = "f32" if shape.format == "f32" else "bf16"
        compute = operations / statistics.median(probes.peaks[kind])
        rows.append(
            TunedKernel(
                kernel="linear",
                shape=shape.row(tokens),
                candidates=len(tier.candidates),
                config=spelled(best),
                microseconds=round(seconds * 1e6, 2),
                percent_of_limit=round(100 * max(read, compute) / seconds, 1),
                speedup=round(statistics.median(speedups(tokens, best)), 3),
                constants=dict(best),
                limit="bandwidth" if read >= compute else "arithmetic",
                intensity=round(operations / num_bytes, 3),
            )
        )
    return rows
