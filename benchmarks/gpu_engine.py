"""One package through the real engine: boot, prefill, decode, and a load of requests. Prints JSON.

python -m benchmarks.gpu_engine PACKAGE [--few] [--quick] [--began SECONDS]
"""

import argparse
import json
import random
import statistics
import sys
import time
from collections.abc import Iterator
from math import prod
from typing import Any

from pagedc.runtime.config import EngineConfig, EngineOptions, resolve
from pagedc.runtime.engine import Engine
from pagedc.runtime.executors import open_executor
from pagedc.runtime.manifest import Manifest
from pagedc.runtime.messages import AddRequest
from pagedc.runtime.package import Package
from pagedc.runtime.sampling_params import SamplingParams

DECODES = ((1, 1024), (1, 16384), (8, 1024), (64, 1024), (256, 1024))  # sequences, context
PREFILLS = (2048, 4096, 16384)
FEW_DECODES, FEW_PREFILLS = ((1, 1024), (64, 1024)), (4096,)
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
        prompt = [self._random.randrange(3, min(1000, self.config.vocab_size)) for _ in range(length)]
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
        while self.engine.has_work and len(timed) < steps:
            begin = time.perf_counter()
            events = self.engine.step()
            # The engine may be a step ahead; once every step brings a token of each, its period is a step.
            if sum(len(event.token_ids) for event in events) == num_seqs:
                timed.append(time.perf_counter() - begin)
        for number in range(self._count - num_seqs + 1, self._count + 1):
            self.engine.abort(str(number))
        self.drain()
        return statistics.median(timed[3:] or timed)  # the first may have prefilled too

    def load(self, at_once: int, length: int, num_tokens: int) -> dict[str, Any]:
        """Tokens a second of requests that all arrive together."""
        for _ in range(at_once):
            self.add(length, num_tokens)
        seconds = sum(self.drain())
        return {"requests": at_once, "seconds": seconds, "tokens_per_s": at_once * num_tokens / seconds}


def work_of(manifest: Manifest) -> tuple[float, float] | None:
    """(bytes of weights that a decoding step reads, operations of linears a prefilled token).

    Rows of an embedding that is no head are looked up, not read; the head is computed for a prompt's last
    token only. None where experts are chosen: what is read then depends on the tokens.
    """
    if any(len(weight.shape) == 3 for weight in manifest.weights):
        return None
    tables = [prod(w.shape) for w in manifest.weights if w.shape[0] == manifest.model.vocab_size]
    size = manifest.memory.weights_bytes / manifest.model.num_parameters
    unread = sum(tables[1:]) * size
    return manifest.memory.weights_bytes - unread, 2.0 * (manifest.model.num_parameters - sum(tables))


def prefills(runner: Runner, lengths: list[int], flops: float | None) -> Iterator[dict[str, Any]]:
    """A row for each length that fits, the second of two runs."""
    config = runner.config
    for length in lengths:
        if length < config.max_model_len and length <= config.num_blocks * config.block_size:
            runner.prefill(length)
            step = runner.prefill(length)
            row = {"what": f"prefill {length}", "step_s": step, "tokens_per_s": length / step}
            yield row | ({} if flops is None else {"flops": length * flops})


def decodes(
    runner: Runner, cases: list[tuple[int, int]], num_bytes: float | None, kv_bytes: float, steps: int
) -> Iterator[dict[str, Any]]:
    """A row for each number of sequences and context that fits."""
    config = runner.config
    for num_seqs, context in cases:
        fits = num_seqs * (context + 4 * STEPS) <= config.num_blocks * config.block_size
        if num_seqs <= config.max_num_seqs and context + 4 * STEPS < config.max_model_len and fits:
            step = runner.decode(num_seqs, context, steps)
            row = {"what": f"decode {num_seqs} x {context}", "step_s": step, "tokens_per_s": num_seqs / step}
            yield row | ({} if num_bytes is None else {"bytes": num_bytes + num_seqs * context * kv_bytes})


def main() -> None:
    """Everything that the package's limits allow."""
    parser = argparse.ArgumentParser()
    parser.add_argument("package")
    parser.add_argument("--few", action="store_true", help="what has a floor only")
    parser.add_argument("--quick", action="store_true", help="a few tokens: does it run at all")
    parser.add_argument("--began", type=float, default=time.time(), help="when this process was asked for")
    arguments = parser.parse_args()
    package = Package.open(arguments.package)
    config = resolve(package.manifest, EngineOptions())
    executor = open_executor(package, config)
    runner = Runner(Engine(executor, config, []), config)
    opened = time.time() - arguments.began
    runner.prefill(1)
    boot = time.time() - arguments.began
    kv_bytes = package.manifest.kv_cache.bytes_per_block / package.manifest.kv_cache.block_size
    num_bytes, flops = work_of(package.manifest) or (None, None)
    divisor, steps = (1024, 2) if arguments.quick else (1, STEPS)
    lengths = [max(n // divisor, 2) for n in (FEW_PREFILLS if arguments.few else PREFILLS)]
    cases = [
        (max(s // divisor, 1), max(c // divisor, 1)) for s, c in (FEW_DECODES if arguments.few else DECODES)
    ]
    rows = [*prefills(runner, lengths, flops), *decodes(runner, cases, num_bytes, kv_bytes, steps)]
    loads = [] if arguments.quick or arguments.few else LOADS
    served = [runner.load(at_once, 1024, 256) for at_once in loads if at_once <= config.max_num_seqs]
    executor.close()
    imported = [name for name in ("torch", "triton") if name in sys.modules]
    result = {"open_s": opened, "first_token_s": boot, "rows": rows, "loads": served}
    print(json.dumps(result | {"compilers_imported": len(imported)}))  # none: nothing can have been compiled


if __name__ == "__main__":
    main()
