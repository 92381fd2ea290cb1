"""One package through the real engine: boot, prefill, decode, and a load of requests. Prints JSON.

python -m benchmarks.gpu_engine PACKAGE [--quick]
"""

import argparse
import json
import random
import statistics
import sys
import time
from typing import Any

from pagedc.runtime.config import EngineConfig, EngineOptions, resolve
from pagedc.runtime.engine import Engine
from pagedc.runtime.executors import open_executor
from pagedc.runtime.messages import AddRequest
from pagedc.runtime.package import Package
from pagedc.runtime.sampling_params import SamplingParams

DECODES = ((1, 1024), (1, 16384), (8, 1024), (64, 1024), (64, 8192), (256, 1024))  # sequences, context
PREFILLS = (2048, 4096, 16384)
STEPS = 30  # that are timed of a decode
LOADS = (1, 16, 128)  # requests at once, of 1024 tokens in and 256 out


class Runner:
    """An engine and random prompts."""

    def __init__(self, engine: Engine, config: EngineConfig) -> None:
        self.engine, self.config = engine, config
        self._random = random.Random(0)
        self._count = 0

    def add(self, length: int, num_tokens: int) -> None:
        """A request of random tokens: no two share a prefix."""
        self._count += 1
        prompt = [self._random.randrange(3, 1000) for _ in range(length)]
        params = SamplingParams(temperature=0, max_tokens=num_tokens, ignore_eos=True)
        self.engine.add_request(AddRequest(str(self._count), prompt, params))

    def drain(self) -> list[float]:
        """Seconds of each step until nothing is left."""
        steps = []
        while self.engine.has_work:
            begin = time.perf_counter()
            self.engine.step()
            steps.append(time.perf_counter() - begin)
        return steps

    def prefill(self, length: int) -> float:
        """Seconds to the first token."""
        self.add(length, 1)
        return sum(self.drain())

    def decode(self, num_seqs: int, context: int, steps: int) -> float:
        """Median seconds of a step in which every sequence gets a token."""
        for _ in range(num_seqs):
            self.add(context, steps + num_seqs * context // self.config.max_num_batched_tokens + 2)
        timed: list[float] = []
        while self.engine.has_work:
            scheduler = self.engine.scheduler
            all_decode = len(scheduler.running) == num_seqs and all(
                len(sequence.token_ids) - sequence.num_computed_tokens == 1 for sequence in scheduler.running
            )
            begin = time.perf_counter()
            self.engine.step()
            if all_decode:
                timed.append(time.perf_counter() - begin)
            if len(timed) == steps:
                break
        for number in range(self._count - num_seqs + 1, self._count + 1):
            self.engine.abort(str(number))
        self.drain()
        return statistics.median(timed[3:] or timed)

    def load(self, at_once: int, length: int, num_tokens: int) -> dict[str, Any]:
        """Tokens a second of requests that all arrive together."""
        for _ in range(at_once):
            self.add(length, num_tokens)
        seconds = sum(self.drain())
        return {"requests": at_once, "seconds": seconds, "tokens_per_s": at_once * num_tokens / seconds}


def main() -> None:
    """Everything that the package's limits allow."""
    parser = argparse.ArgumentParser()
    parser.add_argument("package")
    parser.add_argument("--quick", action="store_true", help="a few tokens: does it run at all")
    arguments = parser.parse_args()
    begin = time.perf_counter()
    package = Package.open(arguments.package)
    config = resolve(package.manifest, EngineOptions())
    executor = open_executor(package, config)
    engine = Engine(executor, config, [])
    runner = Runner(engine, config)
    opened = time.perf_counter() - begin
    runner.prefill(1)
    boot = time.perf_counter() - begin
    manifest = package.manifest
    kv_bytes = manifest.kv_cache.bytes_per_block / manifest.kv_cache.block_size
    embedding = max(
        weight.shape[0] * weight.shape[1] for weight in manifest.weights if len(weight.shape) == 2
    )
    flops_per_token = 2 * (manifest.model.num_parameters - embedding)
    rows = []
    divisor = 1024 if arguments.quick else 1
    for length in PREFILLS:
        length = max(length // divisor, 2)
        if length < config.max_model_len and length <= config.num_blocks * config.block_size:
            runner.prefill(length)
            step = runner.prefill(length)
            figures = {"step_s": step, "tokens_per_s": length / step, "flops": length * flops_per_token}
            rows.append({"what": f"prefill {length}"} | figures)
    for num_seqs, context in DECODES:
        num_seqs, context = max(num_seqs // divisor, 1), max(context // divisor, 1)
        fits = num_seqs * (context + 4 * STEPS) <= config.num_blocks * config.block_size
        if num_seqs <= config.max_num_seqs and context + 4 * STEPS < config.max_model_len and fits:
            step = runner.decode(num_seqs, context, 2 if arguments.quick else STEPS)
            num_bytes = manifest.memory.weights_bytes + num_seqs * context * kv_bytes
            figures = {"step_s": step, "tokens_per_s": num_seqs / step, "bytes": num_bytes}
            rows.append({"what": f"decode {num_seqs} x {context}"} | figures)
    loads = [] if arguments.quick else LOADS
    served = [runner.load(at_once, 1024, 256) for at_once in loads if at_once <= config.max_num_seqs]
    executor.close()
    result = {"open_s": opened, "first_token_s": boot, "rows": rows, "loads": served}
    result["imported"] = [name for name in ("torch", "triton") if name in sys.modules]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
