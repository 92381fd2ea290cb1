"""Run requests through the engine in-process, arriving as a test says, and note every token and logprob."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from pagedc.runtime.config import PROMPT_LOGPROB_ROWS, EngineOptions, resolve
from pagedc.runtime.engine import Engine
from pagedc.runtime.executors import open_executor
from pagedc.runtime.manifest import Manifest
from pagedc.runtime.messages import AddRequest, EngineStats
from pagedc.runtime.package import Package
from pagedc.runtime.sampling_params import SamplingParams

MAX_MODEL_LEN = 128
MAX_BATCHED_TOKENS = 64
Prompts = Sequence[list[int]]


class Generated(NamedTuple):
    """What one engine made of all prompts."""

    outputs: list[list[tuple[int, float]]]  # of each prompt: token id, logprob
    stats: EngineStats


def make_prompts(vocab_size: int, *, seed: int = 0, count: int = 32) -> list[list[int]]:
    """Random token ids; every fourth prompt begins like the one before, for the prefix cache."""
    rng = random.Random(seed)
    prompts: list[list[int]] = []
    for i in range(count):
        shared = prompts[-1][:40] if i % 4 == 3 else []
        prompts.append(shared + [rng.randrange(3, vocab_size) for _ in range(rng.randint(1, 60))])
    return prompts


def generate(
    package: Path,
    prompts: Prompts,
    *,
    num_tokens: int,
    arrivals: Sequence[int] | None = None,  # of each prompt: the step before which it comes; None = alone
    num_threads: int = 1,
    prefix_cache: bool = False,
    num_blocks: int | None = None,
) -> Generated:
    """Greedy tokens of every prompt."""
    opened = Package.open(package)
    options = EngineOptions(
        num_threads=num_threads,
        prefix_cache=prefix_cache,
        max_model_len=MAX_MODEL_LEN,
        max_num_batched_tokens=MAX_BATCHED_TOKENS,
        memory=_memory(opened.manifest, num_blocks or 400),
    )
    config = resolve(opened.manifest, options)
    assert num_blocks is None or config.num_blocks == num_blocks
    executor = open_executor(opened, config)
    try:
        engine = Engine(executor, config, opened.manifest.model.eos_token_ids)
        outputs: list[list[tuple[int, float]]] = [[] for _ in prompts]
        params = SamplingParams(temperature=0.0, max_tokens=num_tokens, logprobs=0, ignore_eos=True)
        waiting = sorted(range(len(prompts)), key=lambda i: (arrivals[i] if arrivals else i, i))
        step = 0
        while waiting or engine.has_work:
            while waiting and (step >= arrivals[waiting[0]] if arrivals else not engine.has_work):
                i = waiting.pop(0)
                engine.add_request(AddRequest(str(i), prompts[i], params))
            for event in engine.step():
                tokens = zip(event.token_ids, event.logprobs, strict=True)
                outputs[int(event.request_id)] += [(token, each.logprob) for token, each in tokens]
            step += 1
        return Generated(outputs, engine.stats())
    finally:
        executor.close()


def _memory(manifest: Manifest, num_blocks: int) -> int:
    """Bytes that leave room for so many blocks."""
    memory = manifest.memory
    rows = manifest.limits.max_num_seqs + PROMPT_LOGPROB_ROWS
    fixed = memory.weights_bytes + memory.arena_bytes_per_token * MAX_BATCHED_TOKENS
    fixed += memory.logits_bytes_per_row * rows
    return fixed + num_blocks * manifest.kv_cache.bytes_per_block
