"""Time linear over packed weights against this machine's read bandwidth and arithmetic peak.

    python benchmarks/linear.py --formats bf16 int4_g32_min --tokens 1 512 --json linear.json

Weights are rotated over copies that exceed the last-level cache, so every call reads them from memory. Each repetition
times the bandwidth and then each linear, so that a machine that drifts drifts for both; figures are medians.
"""

import argparse
import ctypes
import json
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

from pagedc.kernels.cpu import COMPILE_FLAGS
from pagedc.kernels.cpu.layout import packed_bytes, parse_format

HEADERS = Path(__file__).parents[1] / "kernels" / "cpu"
FORMATS = ("f32", "bf16", "int8_g32", "int8_g0", "int4_g32", "int4_g32_min", "int4_g64")
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


SOURCE = """
#include <stdlib.h>

#include <chrono>

#include "linear.h"

using namespace pagedc;
using Clock = std::chrono::steady_clock;

struct Bench {
  Team team;
  uint8_t* arena;
  float* out;
  bf16* x;
};

static double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

extern "C" Bench* bench_create(int threads, int64_t arena_bytes, int64_t x_bytes, int64_t out_bytes) {
  Bench* bench = new Bench{Team(threads), static_cast<uint8_t*>(aligned_alloc(1 << 21, arena_bytes)),
                           static_cast<float*>(aligned_alloc(4096, out_bytes)),
                           static_cast<bf16*>(aligned_alloc(4096, x_bytes))};
  memset(bench->arena, 0x3c, arena_bytes);  // an ordinary number in every format
  memset(bench->x, 0x3c, x_bytes);
  memset(bench->out, 0, out_bytes);
  return bench;
}

// Seconds to read the arena once.
extern "C" double bench_read(Bench* bench, int64_t bytes) {
  const auto start = Clock::now();
  bench->team.run([&](Worker& worker) {
    worker.parallel_for(bytes, 1 << 20, [&](int64_t begin, int64_t end) {
      typedef int64_t Line __attribute__((vector_size(64)));
      const Line* lines = reinterpret_cast<const Line*>(bench->arena);
      Line a = {}, b = {}, c = {}, d = {};
      for (int64_t i = begin / 64; i < end / 64; i += 4) {
        a ^= lines[i];
        b ^= lines[i + 1];
        c ^= lines[i + 2];
        d ^= lines[i + 3];
      }
      a ^= b ^ c ^ d;
      asm volatile("" ::"m"(a));
    });
  });
  return seconds_since(start);
}

// Floating-point operations per second of the product that a bf16 linear is made of, operands in registers.
extern "C" double bench_peak(Bench* bench, int64_t iterations) {
  const auto start = Clock::now();
  bench->team.run([&](Worker&) {
    constexpr int CHAINS = 8;
    const BF16::Raw raw = BF16::load(bench->arena);
    const auto weight = BF16::weight<0>(raw);
    const auto x = broadcast_x(reinterpret_cast<const BF16::X*>(bench->x));
    Vec16 sums[CHAINS];
#pragma GCC unroll 8
    for (int j = 0; j < CHAINS; ++j) sums[j] = broadcast(static_cast<float>(j));  // equal chains would be merged
    for (int64_t i = 0; i < iterations; ++i) {
      asm volatile("");  // the loop stays
#pragma GCC unroll 8
      for (int j = 0; j < CHAINS; ++j) sums[j] = product(weight, x, sums[j]);
    }
    float out[CHAINS * PANEL_ROWS];
#pragma GCC unroll 8
    for (int j = 0; j < CHAINS; ++j) pagedc::store(out + j * PANEL_ROWS, sums[j]);
    asm volatile("" ::"m"(out));
  });
  return bench->team.size() * iterations * 8.0 * 2 * PANEL_ROWS * BF16::X_PER_WEIGHT / seconds_since(start);
}

template <class W, int N, int K>
double time_linear(Bench* bench, int64_t T, int64_t stride, int copies) {
  const auto start = Clock::now();
  bench->team.run([&](Worker& worker) {
    for (int copy = 0; copy < copies; ++copy) {
      float* out = bench->out;
      linear<W, N, K>(worker, T, reinterpret_cast<const typename W::Input*>(bench->x), K, bench->arena + copy * stride,
                      [out](int64_t t, int n, const float* acc, int count) __attribute__((always_inline)) {
                        for (int i = 0; i < count; ++i) out[t * N + n + i] = acc[i];
                      });
      worker.barrier();
    }
  });
  return seconds_since(start) / copies;
}
"""
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
    parser.add_argument("--json", type=Path, help="write the figures there")
    options = parser.parse_args()

    shapes = [tuple(int(part) for part in shape.split("x")) for shape in options.shapes]
    library = build(options.formats, shapes, options.march)
    max_tokens, max_rows = max(options.tokens), max(rows for rows, _ in shapes)
    max_columns = max(columns for _, columns in shapes)
    sizes = [ARENA_BYTES, max_tokens * (max_columns + 2) * 4, max_tokens * max_rows * 4]
    rounded = [ctypes.c_int64(-(-size // (1 << 21)) << 21) for size in sizes]
    bench = ctypes.c_void_p(library.bench_create(options.threads, *rounded))

    cases = [
        (name, *shape, tokens) for name in options.formats for shape in shapes for tokens in options.tokens
    ]
    seconds: dict[tuple[str, int, int, int], list[float]] = {case: [] for case in cases}
    reads: list[float] = []
    peaks: list[float] = []
    for _ in range(options.repetitions):
        for case in cases:
            name, rows, columns, tokens = case
            stride = -(-packed_bytes(name, rows, columns) // 64) * 64
            copies = ARENA_BYTES // stride
            if tokens > 1:  # enough to be timed, and few enough to be patient
                copies = max(2, min(copies, int(2e10 / (2.0 * rows * columns * tokens))))
            function = getattr(library, symbol(name, rows, columns))
            reads.append(ARENA_BYTES / library.bench_read(bench, ctypes.c_int64(ARENA_BYTES)) / 1e9)
            seconds[case].append(function(bench, ctypes.c_int64(tokens), ctypes.c_int64(stride), copies))
        peaks.append(library.bench_peak(bench, ctypes.c_int64(2_000_000)) / 1e9)

    bandwidth, peak = statistics.median(reads), statistics.median(peaks)
    results = [summary(*case, statistics.median(seconds[case]), bandwidth, peak) for case in cases]
    show(results, bandwidth, peak, options.threads)
    if options.json:
        report = {
            "command": sys.argv,
            "machine": machine(),
            "threads": options.threads,
            "march": options.march,
            "read_gigabytes_per_second": bandwidth,
            "peak_bf16_gigaflops": peak,
            "results": [result._asdict() for result in results],
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")


def build(formats: list[str], shapes: list[tuple[int, ...]], march: str) -> ctypes.CDLL:
    """Compile and load a library with a timed linear for each format and shape."""
    source = SOURCE + "".join(
        CASE_SOURCE.format(
            symbol=symbol(name, rows, columns), type=parse_format(name).cpp_type, rows=rows, columns=columns
        )
        for name in formats
        for rows, columns in shapes
    )
    with tempfile.TemporaryDirectory() as directory:
        cpp, output = Path(directory) / "linear.cpp", Path(directory) / "linear.so"
        cpp.write_text(source)
        command = ["g++", *COMPILE_FLAGS, f"-march={march}", f"-I{HEADERS}", str(cpp), "-o", str(output)]
        subprocess.run(command, check=True)
        library = ctypes.CDLL(str(output))
    library.bench_create.restype = ctypes.c_void_p
    for name in ("bench_read", "bench_peak", *(symbol(f, *shape) for f in formats for shape in shapes)):
        getattr(library, name).restype = ctypes.c_double
    return library


def symbol(format_name: str, rows: int, columns: int) -> str:
    return f"linear_{format_name}_{rows}_{columns}"


def summary(
    format_name: str, rows: int, columns: int, tokens: int, seconds: float, bandwidth: float, peak: float
) -> Result:
    """The figures of one call that took `seconds`, against `bandwidth` in GB/s and `peak` in GFLOP/s."""
    gigabytes = packed_bytes(format_name, rows, columns) / seconds / 1e9
    gigaflops = 2.0 * rows * columns * tokens / seconds / 1e9
    return Result(
        format_name,
        rows,
        columns,
        tokens,
        seconds * 1e6,
        gigabytes,
        gigabytes / bandwidth,
        gigaflops,
        gigaflops / peak,
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


def machine() -> str:
    """The processor's name and the number of its cores that this machine has."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} × {len(names)}" if names else platform.processor()


if __name__ == "__main__":
    main()
