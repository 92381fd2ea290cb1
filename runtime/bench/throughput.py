"""Many sequences at once, offline: tokens a second through the engine of this process."""

import time
from pathlib import Path
from typing import Any

from pagedc.runtime.bench.machine import read_bandwidth
from pagedc.runtime.bench.workload import LAST_ID, Lengths, drawn
from pagedc.runtime.config import EngineOptions, resolve
from pagedc.runtime.engine import Engine
from pagedc.runtime.errors import UsageError
from pagedc.runtime.executors import open_executor
from pagedc.runtime.messages import AddRequest
from pagedc.runtime.package import Package
from pagedc.runtime.sampling_params import SamplingParams


def measure_throughput(
    path: Path,
    num_requests: int,
    input_length: Lengths,
    output_length: Lengths,
    *,
    num_threads: int | None,
    max_num_seqs: int | None,
    seed: int,
) -> dict[str, Any]:
    """All requests are added, then the engine steps until none is left."""
    package = Package.open(path)
    options = EngineOptions(max_num_seqs=max_num_seqs, num_threads=num_threads, prefix_cache=False)
    config = resolve(package.manifest, options)
    if input_length.high + output_length.high > config.max_model_len:
        raise UsageError(
            f"{input_length.high} + {output_length.high} tokens exceed max_model_len, {config.max_model_len}"
        )
    last_id = min(LAST_ID, config.vocab_size - 1)
    asks = drawn(num_requests, input_length, output_length, seed, last_id)
    executor = open_executor(package, config)
    try:
        engine = Engine(executor, config, [])
        limit = read_bandwidth(config.num_threads)
        begin = time.perf_counter()
        for i, ask in enumerate(asks):
            params = SamplingParams(temperature=0, max_tokens=ask.max_tokens, ignore_eos=True)
            engine.add_request(AddRequest(str(i), list(ask.prompt), params))  # type: ignore[arg-type]
        output_tokens = num_steps = 0
        while engine.has_work:
            output_tokens += sum(len(event.token_ids) for event in engine.step())
            num_steps += 1
        seconds = time.perf_counter() - begin
    finally:
        executor.close()
    prompt_tokens = sum(len(ask.prompt) for ask in asks)
    return {
        "package": str(path),
        "threads": config.num_threads,
        "requests": num_requests,
        "seconds": seconds,
        "steps": num_steps,
        "requests_per_second": num_requests / seconds,
        "output_tokens_per_second": output_tokens / seconds,
        "total_tokens_per_second": (prompt_tokens + output_tokens) / seconds,
        "read_bandwidth": limit,
        # A step that did nothing but read each weight once:
        "share_of_bandwidth": package.manifest.memory.weights_bytes * num_steps / seconds / limit,
    }
