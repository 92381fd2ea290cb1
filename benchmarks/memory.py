"""Memory while serving: four requests of 620 tokens at a time, then what each process holds.

Anonymous memory is a process's own; a page of a file counts once, for the process that has most of that file.
(Proportional set sizes would depend on what else on the machine uses the same libraries.)

python -m benchmarks.memory [PACKAGE]
"""

import argparse
import asyncio
import re
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks import record
from pagedc.runtime.bench.load import Load, offer
from pagedc.runtime.bench.machine import descendants
from pagedc.runtime.bench.recording import address_of
from pagedc.runtime.bench.startup import HOST, free_port, running, wait_until_ready
from pagedc.runtime.bench.workload import Lengths, drawn, request_body
from pagedc.runtime.package import Package

REQUESTS, INPUT, OUTPUT = 4, 512, 108
SETTLE_SECONDS = 3.0  # an engine with nothing to do prepares for later requests
NAMES = {"engine_process": "engine", "template_process": "templates", "serve": "server"}
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \S+ *(.*)$")


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, nargs="?", default=Path("build/smollm2-135m.pagedc"))
    figures = measure(parser.parse_args().package)
    total, weights, kv_cache, rest = (
        figures[f"{name}_bytes"] / 1e6 for name in ("total", "weights", "kv_cache", "rest")
    )
    print(f"total {total:.0f} MB: weights {weights:.0f}, KV cache {kv_cache:.0f}, rest")
    for name, num_bytes in figures["parts_of_rest"].items():
        print(f"  {name:<10} {num_bytes / 1e6:5.1f} MB")
    print(f"  {'':<10} {rest:5.1f} MB")
    record.write("memory", figures)


def measure(package: Path) -> dict[str, Any]:
    """Serve the requests, then count."""
    manifest = Package.open(package).manifest
    port = free_port()
    command = [sys.executable, "-P", "-m", "pagedc.runtime.cli", "serve", str(package)]
    with running([*command, "--port", str(port)]) as process:
        wait_until_ready(process, port, "/ready")
        asks = drawn(REQUESTS, Lengths(INPUT, INPUT), Lengths(OUTPUT, OUTPUT), 0)
        bodies = [request_body(ask, manifest.model.name, chat=False, ignore_eos=True) for ask in asks]
        address = address_of(f"http://{HOST}:{port}", "/v1/completions")
        answers, _ = asyncio.run(offer(address, bodies, Load()))
        if failed := [answer.error for answer in answers if answer.error]:
            sys.exit(f"a request failed: {failed[0]}")
        time.sleep(SETTLE_SECONDS)
        parts = memory_of([process.pid, *descendants(process.pid)])
    cache = manifest.kv_cache
    kv_cache = REQUESTS * -(-(INPUT + OUTPUT) // cache.block_size) * cache.bytes_per_block
    total, weights = sum(parts.values()), parts.pop("weights")
    parts["engine"] -= kv_cache
    return {
        "package": package.name,
        "total_bytes": total,
        "weights_bytes": weights,
        "kv_cache_bytes": kv_cache,
        "rest_bytes": total - weights - kv_cache,
        "parts_of_rest": parts,
    }


def memory_of(pids: list[int]) -> dict[str, int]:
    """Bytes of each process, `weights` apart."""
    anonymous: dict[str, int] = defaultdict(int)
    files: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for pid in pids:
        words = Path(f"/proc/{pid}/cmdline").read_text()
        process = next((name for sign, name in NAMES.items() if sign in words), "others")
        file = ""
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            if found := _MAPPING.match(line):
                file = found[1] if found[1].startswith("/") else ""
            elif line.startswith("Rss:") and file:
                files[file][process] += int(line.split()[1]) << 10
            elif line.startswith("Anonymous:"):
                anonymous[process] += int(line.split()[1]) << 10
                if file:
                    files[file][process] -= int(line.split()[1]) << 10
    for file, sizes in files.items():
        process = max(sizes, key=lambda name: sizes[name])
        anonymous["weights" if file.endswith(".safetensors") else process] += sizes[process]
    return dict(anonymous)


if __name__ == "__main__":
    main()
