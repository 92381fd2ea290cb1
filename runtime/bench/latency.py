"""One sequence at a time, in this process: how long a prompt takes, and each token after it."""

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pagedc.runtime.bench.figures import spread
from pagedc.runtime.bench.machine import compiled_peak, read_bandwidth
from pagedc.runtime.bench.workload import LAST_ID, Lengths, drawn
from pagedc.runtime.config import EngineOptions, resolve
from pagedc.runtime.engine import Engine
from pagedc.runtime.errors import UsageError
from pagedc.runtime.executors import open_executor
from pagedc.runtime.manifest import Manifest
from pagedc.runtime.messages import AddRequest
from pagedc.runtime.package import Package
from pagedc.runtime.sampling_params import SamplingParams


def measure_latency(
    path: Path, input_lengths: Sequence[int], num_tokens: int, runs: int, num_threads: int | None
) -> dict[str, Any]:
    """Figures for each length of prompt; a bandwidth probe stands beside each run."""
    package = Package.open(path)
    options = EngineOptions(max_num_seqs=1, num_threads=num_threads, prefix_cache=False)
    config = resolve(package.manifest, options)
    if max(input_lengths) + num_tokens > config.max_model_len:
        raise UsageError(
            f"a prompt of {max(input_lengths)} tokens and {num_tokens} more exceed max_model_len, "
            f"{config.max_model_len}"
        )
    executor = open_executor(package, config)
    try:
        engine = Engine(executor, config, [])
        last_id = min(LAST_ID, config.vocab_size - 1)
        _run(engine, 8, 8, 0, last_id)  # pages of the weights come in
        rows = []
        for length in input_lengths:
            prefills, decodes, limits = [], [], []
            for i in range(runs):
                limits.append(read_bandwidth(config.num_threads))
                prefill, steps = _run(engine, length, num_tokens, i + 1, last_id)
                prefills.append(prefill)
                decodes.append(statistics.median(steps) if steps else prefill)
            rows.append(_row(package.manifest, length, num_tokens, prefills, decodes, limits))
    finally:
        executor.close()
    peak = compiled_peak(package.path, config.num_threads)
    for row in rows:
        row["share_of_peak"] = None if peak is None else row["operations_per_second"] / peak
    return {"package": str(path), "threads": config.num_threads, "peak": peak, "lengths": rows}


def _run(engine: Engine, length: int, num_tokens: int, seed: int, last_id: int) -> tuple[float, list[float]]:
    """Seconds of a prompt up to its first token, and of each step after."""
    ask = drawn(1, Lengths(length, length), Lengths(num_tokens, num_tokens), seed, last_id)[0]
    params = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
    begin = time.perf_counter()
    engine.add_request(AddRequest(f"run-{seed}", list(ask.prompt), params))  # type: ignore[arg-type]
    while not any(event.token_ids for event in engine.step()):
        pass
    prefill = time.perf_counter() - begin
    steps = []
    while engine.has_work:
        begin = time.perf_counter()
        engine.step()
        steps.append(time.perf_counter() - begin)
    return prefill, steps


def _row(
    manifest: Manifest,
    length: int,
    num_tokens: int,
    prefills: list[float],
    decodes: list[float],
    limits: list[float],
) -> dict[str, Any]:
    memory, cache = manifest.memory, manifest.kv_cache
    context = length + num_tokens / 2
    num_bytes = memory.weights_bytes + context * cache.bytes_per_block / cache.block_size
    shares = [num_bytes / seconds / limit for seconds, limit in zip(decodes, limits, strict=True)]
    prefill = statistics.median(prefills)
    return {
        "input_tokens": length,
        "output_tokens": num_tokens,
        "ttft": spread(prefills),
        "prefill_tokens_per_second": length / prefill,
        "tpot": spread(decodes),
        "decode_tokens_per_second": 1 / statistics.median(decodes),
        "bytes_per_token": num_bytes,
        "read_bandwidth": statistics.median(limits),
        "share_of_bandwidth": statistics.median(shares),
        "operations_per_second": 2 * manifest.model.num_parameters * length / prefill,
    }
