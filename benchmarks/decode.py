"""Decode speed of one sequence beside the machine's limit: every token reads every weight once.

Each run measures read bandwidth and then decodes, because either drifts by a factor of two within hours.

python -m benchmarks.decode [PACKAGE…] [--threads N] [--runs N] [--tokens N]
"""

import argparse
import os
import statistics
import time
from pathlib import Path
from typing import Any

from benchmarks import record
from benchmarks.bandwidth import read_bandwidth
from pagedc.runtime.config import EngineOptions, resolve
from pagedc.runtime.engine import Engine
from pagedc.runtime.executors import open_executor
from pagedc.runtime.messages import AddRequest
from pagedc.runtime.package import Package
from pagedc.runtime.sampling_params import SamplingParams

PACKAGES = [Path("build/smollm2-135m.pagedc"), Path("build/smollm2-135m-bf16.pagedc")]
PROMPT = [1, 2, 3, 4, 5, 6, 7, 8]


def decode_seconds(engine: Engine, num_tokens: int) -> float:
    """Median seconds of a step that decodes one token of one sequence."""
    params = SamplingParams(temperature=0, max_tokens=num_tokens + 1, ignore_eos=True)
    engine.add_request(AddRequest(request_id="decode", prompt_token_ids=PROMPT, params=params))
    engine.step()  # the prompt
    seconds = []
    while engine.has_work:
        begin = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)


def measure(path: Path, num_threads: int, num_runs: int, num_tokens: int) -> dict[str, Any]:
    """Tokens a second, bytes a second, and both beside the bandwidth of the same minute."""
    package = Package.open(path)
    config = resolve(package.manifest, EngineOptions(max_num_seqs=1, num_threads=num_threads))
    executor = open_executor(package, config)
    try:
        engine = Engine(executor, config, [])
        num_bytes = package.manifest.memory.weights_bytes
        decode_seconds(engine, 8)  # pages of the weights come in
        rates, limits = [], []
        for _ in range(num_runs):
            limits.append(statistics.median(read_bandwidth(num_threads, passes=5)))
            rates.append(1 / decode_seconds(engine, num_tokens))
    finally:
        executor.close()
    shares = [rate * num_bytes / limit for rate, limit in zip(rates, limits, strict=True)]
    return {
        "package": path.name,
        "model": package.manifest.model.name,
        "dtype": package.manifest.dtype,
        "quantization": package.manifest.quantization,
        "threads": num_threads,
        "bytes_per_token": num_bytes,
        "tokens_per_second": record.summary(rates),
        "read_bandwidth": record.summary(limits),
        "share_of_bandwidth": record.summary(shares),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("packages", type=Path, nargs="*", default=PACKAGES)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    options = parser.parse_args()
    figures = []
    for path in options.packages:
        found = measure(path, options.threads, options.runs, options.tokens)
        figures.append(found)
        rate, share = found["tokens_per_second"]["median"], found["share_of_bandwidth"]["median"]
        limit = found["read_bandwidth"]["median"] / 1e9
        print(f"{path.name:<32} {rate:7.1f} tokens/s, {share:.0%} of {limit:.1f} GB/s")
    record.write("decode", {"packages": figures})


if __name__ == "__main__":
    main()
