"""Time linear over packed weights against this machine's read bandwidth and arithmetic peak.

    python -m benchmarks.linear --formats bf16 int4_g32_min --tokens 1 512 --json

Weights are rotated over copies that exceed the last-level cache, so every call reads them from memory. The
bandwidth is timed before each linear, so that a machine that drifts drifts for both; figures are medians.
"""

import argparse
import ctypes
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from benchmarks import record
from pagedc.kernels.cpu import COMPILE_FLAGS
from pagedc.kernels.cpu.layout import packed_bytes, parse_format

SOURCE = Path(__file__).with_suffix(".cpp").resolve()
HEADERS = Path(__file__).parents[1] / "kernels" / "cpu"
FORMATS = ("f32", "bf16", "int8_g32", "int8_g0", "int4_g32", "int4_g32_min", "int4_g64", "int4_g32_min_i8")
# SmolLM2-135M: QKV, attention output, gate and up, down, logits.
SHAPES = ("960x576", "576x576", "3072x576", "576x1536", "49152x576")
ARENA_BYTES = 192 << 20


class Result(NamedTuple):
    """One linear, timed: microseconds a call, and what that makes of the machine's limits."""

    format_name: str
    rows: int
    columns: int
    num_tokens: int
    microseconds: float
    gigabytes_per_second: float
    bandwidth_fraction: float
    gigaflops: float
    peak_fraction: float


CASE_SOURCE = """
extern "C" double {symbol}(Bench* bench, int64_t T, int64_t stride, int copies) {{
  return time_linear<{type}, {rows}, {columns}>(bench, T, stride, copies);
}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--formats", nargs="+", default=FORMATS, choices=FORMATS)
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="rows x columns")
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 8, 16, 64, 512])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--march", default="native")
    parser.add_argument("--repetitions", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="write the figures to results/linear.json")
    options = parser.parse_args()

    shapes = [parse_shape(shape) for shape in options.shapes]
    library = build(options.formats, shapes, options.march)
    max_tokens, max_rows = max(options.tokens), max(rows for rows, _ in shapes)
    max_columns = max(columns for _, columns in shapes)
    sizes = [ARENA_BYTES, max_tokens * (max_columns + 2) * 4, max_tokens * max_rows * 4]
    rounded = [ctypes.c_int64(-(-size // (1 << 21)) << 21) for size in sizes]
    bench = ctypes.c_void_p(library.bench_create(options.threads, *rounded))

    cases = [
        (name, *shape, tokens)
        for name, *shape in linears(options.formats, shapes)
        for tokens in options.tokens
    ]
    seconds: dict[tuple[str, int, int, int], list[float]] = {case: [] for case in cases}
    reads: dict[tuple[str, int, int, int], list[float]] = {case: [] for case in cases}
    peaks: list[float] = []
    for _ in range(options.repetitions):
        for case in cases:
            name, rows, columns, tokens = case
            stride = -(-packed_bytes(name, rows, columns) // 64) * 64
            copies = ARENA_BYTES // stride
            if tokens > 1:  # enough to be timed, and few enough to be patient
                copies = min(copies, max(2, int(2e10 / (2.0 * rows * columns * tokens))))
            function = getattr(library, symbol(name, rows, columns))
            reads[case].append(ARENA_BYTES / library.bench_read(bench, ctypes.c_int64(ARENA_BYTES)) / 1e9)
            seconds[case].append(function(bench, ctypes.c_int64(tokens), ctypes.c_int64(stride), copies))
        peaks.append(library.bench_peak(bench, ctypes.c_int64(2_000_000)) / 1e9)

    bandwidth = statistics.median(read for case in cases for read in reads[case])
    peak = statistics.median(peaks)
    results = [summary(case, seconds[case], reads[case], peak) for case in cases]
    show(results, bandwidth, peak, options.threads)
    if options.json:
        figures = {
            "threads": options.threads,
            "march": options.march,
            "read_gigabytes_per_second": bandwidth,
            "peak_bf16_gigaflops": peak,
            "results": [result._asdict() for result in results],
        }
        record.write("linear", figures)


def parse_shape(shape: str) -> tuple[int, int]:
    """(rows, columns) of "960x576"."""
    rows, columns = shape.split("x")
    return int(rows), int(columns)


def linears(formats: list[str], shapes: list[tuple[int, int]]) -> list[tuple[str, int, int]]:
    """Every format with every shape whose rows are whole groups of it."""
    return [
        (name, *shape)
        for name in formats
        for shape in shapes
        if shape[1] % (parse_format(name).span or 1) == 0
    ]


def build(formats: list[str], shapes: list[tuple[int, int]], march: str) -> ctypes.CDLL:
    """Compile and load a library with a timed linear for each format and shape."""
    source = f'#include "{SOURCE}"\n' + "".join(
        CASE_SOURCE.format(
            symbol=symbol(name, rows, columns), type=parse_format(name).cpp_type, rows=rows, columns=columns
        )
        for name, rows, columns in linears(formats, shapes)
    )
    with tempfile.TemporaryDirectory() as directory:
        cpp, output = Path(directory) / "linear.cpp", Path(directory) / "linear.so"
        cpp.write_text(source)
        command = ["g++", *COMPILE_FLAGS, f"-march={march}", f"-I{HEADERS}", str(cpp), "-o", str(output)]
        subprocess.run(command, check=True)
        library = ctypes.CDLL(str(output))
    library.bench_create.restype = ctypes.c_void_p
    for name in ("bench_read", "bench_peak", *(symbol(*linear) for linear in linears(formats, shapes))):
        getattr(library, name).restype = ctypes.c_double
    return library


def symbol(format_name: str, rows: int, columns: int) -> str:
    return f"linear_{format_name}_{rows}_{columns}"


def summary(case: tuple[str, int, int, int], seconds: list[float], reads: list[float], peak: float) -> Result:
    """Medians of calls that took `seconds`, each beside a read at `reads` GB/s; `peak` in GFLOP/s."""
    format_name, rows, columns, num_tokens = case
    median = statistics.median(seconds)
    gigabytes = packed_bytes(format_name, rows, columns) / 1e9
    gigaflops = 2e-9 * rows * columns * num_tokens / median
    return Result(
        format_name,
        rows,
        columns,
        num_tokens,
        microseconds=median * 1e6,
        gigabytes_per_second=gigabytes / median,
        bandwidth_fraction=statistics.median(
            gigabytes / s / read for s, read in zip(seconds, reads, strict=True)
        ),
        gigaflops=gigaflops,
        peak_fraction=gigaflops / peak,
    )


def show(results: list[Result], bandwidth: float, peak: float, threads: int) -> None:
    """Print a table of the results."""
    table = Table(title=f"{threads} threads: reads {bandwidth:.1f} GB/s, bf16 products {peak:.0f} GFLOP/s")
    for header in ("format", "shape", "tokens", "µs", "GB/s", "of bandwidth", "GFLOP/s", "of peak"):
        table.add_column(header, justify="left" if header in ("format", "shape") else "right")
    for result in results:
        table.add_row(
            result.format_name,
            f"{result.rows} × {result.columns}",
            str(result.num_tokens),
            f"{result.microseconds:.1f}",
            f"{result.gigabytes_per_second:.1f}",
            f"{result.bandwidth_fraction:.0%}",
            f"{result.gigaflops:.0f}",
            f"{result.peak_fraction:.0%}",
        )
    Console(width=100).print(table)


if __name__ == "__main__":
    main()
