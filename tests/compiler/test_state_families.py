"""Whole compiles of models with state: as test_families, and what slots and preemption must not change."""

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from tests.compiler.families import save_model
from tests.compiler.state_families import COMPILED, VOCAB_SIZE
from tests.compiler.test_families import (
    NUM_TOKENS,
    TOLERANCE,
    check_mixed_batches,
    logits_of,
    teacher_forced,
)

import pagedc
from pagedc.runtime.config import EngineOptions, resolve
from pagedc.runtime.engine import Engine
from pagedc.runtime.executors import open_executor
from pagedc.runtime.messages import AddRequest
from pagedc.runtime.package import Package
from pagedc.runtime.sampling_params import SamplingParams


class Compiled(NamedTuple):
    package: Path
    model: torch.nn.Module
    token_ids: list[int]


@pytest.fixture(scope="module", params=COMPILED)
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    directory = tmp_path_factory.mktemp(request.param)
    model = save_model(request.param, directory / "model")
    package = pagedc.compile(directory / "model", directory / "package", dtype="float32", threads=1)
    return Compiled(package, model, np.random.default_rng(0).integers(3, VOCAB_SIZE, NUM_TOKENS).tolist())


def test_agrees_with_hugging_face(compiled: Compiled) -> None:
    expected = logits_of(compiled.model, compiled.token_ids)
    error = np.abs(teacher_forced(compiled.package, compiled.token_ids) - expected).max()
    assert error <= TOLERANCE * np.abs(expected).max()
    check_mixed_batches(*compiled)


def test_no_bit_depends_on_slots_chunks_or_preemption(compiled: Compiled) -> None:
    prompts = {str(n): compiled.token_ids[n : 2 * n] for n in (14, 15, 1, 33, 7)}
    together, num_preemptions = generate(compiled.package, prompts, max_num_seqs=2, num_blocks=5)
    assert num_preemptions > 0
    for name, prompt in prompts.items():
        alone, _ = generate(compiled.package, {name: prompt}, max_num_seqs=1)
        assert together[name] == alone[name]


def generate(package: Path, prompts: dict[str, list[int]], **changes: Any) -> tuple[dict[str, Any], int]:
    """Token ids and logprobs of each prompt, and how often a sequence was preempted."""
    opened = Package.open(package)
    options = EngineOptions(
        max_model_len=80, max_num_seqs=2, max_num_batched_tokens=17, num_threads=1, memory=2**26
    )
    config = replace(resolve(opened.manifest, options), **changes)
    assert not config.prefix_cache
    executor = open_executor(opened, config)
    try:
        engine = Engine(executor, config, [])
        params = SamplingParams(temperature=0, max_tokens=30, ignore_eos=True, logprobs=0)
        for name, prompt in prompts.items():
            engine.add_request(AddRequest(name, prompt, params))
        found: dict[str, Any] = {name: [] for name in prompts}
        while engine.has_work:
            for event in engine.step():
                found[event.request_id] += [(p.token_id, p.logprob) for p in event.logprobs]
        return found, engine.stats().num_preemptions
    finally:
        executor.close()
