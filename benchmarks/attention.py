"""Time attention: decode against this machine's read bandwidth, prefill in floating-point operations.

python -m benchmarks.attention [--threads 2] [--heads 9/3x64] [--kv bf16] [--json]

Every pass times attention and then a plain read of the same KV cache, so that a machine that drifts drifts
for both; figures are medians. With --json they are written to results/attention.json.
"""

import argparse
import os
import statistics
import subprocess
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import record
from pagedc.kernels.cpu import COMPILE_FLAGS

SOURCE = Path(__file__).with_suffix(".cpp")
HEADERS = SOURCE.parents[1] / "kernels" / "cpu"
# Name, sequences, context, new tokens of each sequence.
CASES = (
    ("decode", 1, 1024, 1),
    ("decode", 1, 16384, 1),
    ("decode", 8, 1024, 1),
    ("decode", 8, 4096, 1),
    ("prefill", 1, 1024, 1024),
    ("prefill", 1, 4096, 512),
)


def build(num_heads: int, num_kv_heads: int, head_dim: int, kv: str) -> Path:
    binary = Path("build/benchmarks/attention")
    binary.parent.mkdir(parents=True, exist_ok=True)
    shape = {"NUM_HEADS": num_heads, "NUM_KV_HEADS": num_kv_heads, "HEAD_DIM": head_dim, "KV": kv}
    flags = [flag for flag in COMPILE_FLAGS if flag != "-shared"]
    defines = [f"-D{name}={value}" for name, value in shape.items()]
    command = [record.compiler(), *flags, "-march=native", *defines, f"-I{HEADERS}", str(SOURCE)]
    subprocess.run([*command, "-o", str(binary)], check=True)
    return binary


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--heads", default="9/3x64", help="query heads / KV heads x head_dim")
    parser.add_argument("--kv", choices=("bf16", "float"), default="bf16")
    parser.add_argument("--passes", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    heads, head_dim = args.heads.split("x")
    num_heads, num_kv_heads = map(int, heads.split("/"))
    binary = build(num_heads, num_kv_heads, int(head_dim), args.kv)

    table = Table("", "sequences", "context", "queries", "µs a layer", "GB/s", "% of read", "GFLOP/s")
    figures = []
    for name, num_seqs, context, queries in CASES:
        numbers = map(str, (args.threads, num_seqs, context, queries, args.passes))
        lines = subprocess.check_output([binary, *numbers], text=True).splitlines()
        passes = [tuple(map(float, line.split())) for line in lines]
        microseconds = statistics.median(attention for attention, _ in passes)
        of_read = statistics.median(read / attention for attention, read in passes)
        kv_bytes = num_seqs * context * num_kv_heads * int(head_dim) * (8 if args.kv == "float" else 4)
        keys_seen = num_seqs * queries * (context - (queries - 1) / 2)  # by all queries: the causal half
        figure = {
            "case": name,
            "num_seqs": num_seqs,
            "context": context,
            "queries": queries,
            "microseconds": round(microseconds, 2),
            "gigabytes_per_second": round(kv_bytes / microseconds / 1e3, 1),
            "fraction_of_read_bandwidth": round(of_read, 3),
            "gigaflops": round(4 * keys_seen * num_heads * int(head_dim) / microseconds / 1e3, 1),
        }
        figures.append(figure)
        is_decode = name == "decode"
        table.add_row(
            *(name, str(num_seqs), str(context), str(queries), f"{microseconds:,.1f}"),
            f"{figure['gigabytes_per_second']}" if is_decode else "",
            f"{100 * of_read:.0f}" if is_decode else "",
            f"{figure['gigaflops']}",
        )
    Console().print(table)
    if args.json:
        shape = {"threads": args.threads, "heads": args.heads, "kv": args.kv}
        record.write("attention", {**shape, "cases": figures})


if __name__ == "__main__":
    main()
