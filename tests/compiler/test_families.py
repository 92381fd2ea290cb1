"""Whole compiles, run and compared with Hugging Face's module in float32.

A package must agree in one sequence run in chunks and then token by token, and in the engine, where prompts
and generated tokens of several sequences share steps and prompts are cut anywhere.
"""

import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.compiler.families import CONFIGS, FEATURES, VOCAB_SIZE, save_model
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

import pagedc
import pagedc.compiler
from pagedc.runtime.config import EngineOptions, resolve
from pagedc.runtime.engine import Engine
from pagedc.runtime.executors import open_executor
from pagedc.runtime.messages import AddRequest, TokenEvent
from pagedc.runtime.package import Package
from pagedc.runtime.sampling_params import SamplingParams

TOLERANCE = 1e-4  # of the largest logit
NUM_TOKENS = 120
PROMPTS = (1, 23, 40, 64)  # tokens of each; the last is given again, when its blocks are known


@pytest.mark.parametrize("name", [*CONFIGS, *FEATURES])
def test_agrees_with_hugging_face(name: str, tmp_path: Path) -> None:
    model = save_model(name, tmp_path / "model")
    package = pagedc.compile(tmp_path / "model", tmp_path / "package", dtype="float32", threads=1)
    token_ids = np.random.default_rng(0).integers(3, VOCAB_SIZE, NUM_TOKENS).tolist()
    expected = logits_of(model, token_ids)
    error = np.abs(teacher_forced(package, token_ids) - expected).max()
    assert error <= TOLERANCE * np.abs(expected).max()
    check_mixed_batches(package, model, token_ids)


def check_mixed_batches(package: Path, model: torch.nn.Module, token_ids: list[int]) -> None:
    params = SamplingParams(temperature=0, max_tokens=12, ignore_eos=True, logprobs=0, prompt_logprobs=0)
    prompts = {str(length): token_ids[:length] for length in PROMPTS}
    events = run_engine(package, prompts, params)
    for request_id, prompt in prompts.items():
        mine = [event for event in events if event.request_id == request_id]
        generated = generated_by(events, request_id)
        assert len(generated) == params.max_tokens
        whole = prompt + generated
        logits = logits_of(model, whole)
        greedy = logits[len(prompt) - 1 : -1].argmax(1)
        assert generated == greedy.tolist()
        logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        first, *rest = mine[0].prompt_logprobs or []
        assert first is None
        reported = [p.logprob for p in rest if p is not None]
        reported += [p.logprob for event in mine for p in event.logprobs]
        expected = logprobs[np.arange(len(whole) - 1), whole[1:]]
        np.testing.assert_allclose(reported, expected, atol=2 * TOLERANCE * np.abs(logits).max())
    assert generated_by(events, "again") == generated_by(events, str(PROMPTS[-1]))


def generated_by(events: list[TokenEvent], request_id: str) -> list[int]:
    return [i for event in events if event.request_id == request_id for i in event.token_ids]


def run_engine(package: Path, prompts: dict[str, list[int]], params: SamplingParams) -> list[TokenEvent]:
    opened = Package.open(package)
    options = EngineOptions(max_num_seqs=3, max_num_batched_tokens=17, num_threads=2, memory=2**26)
    config = resolve(opened.manifest, options)
    executor = open_executor(opened, config)
    try:
        engine = Engine(executor, config, [])
        for request_id, prompt in prompts.items():
            engine.add_request(AddRequest(request_id, prompt, params))
        events = []
        while engine.has_work:
            events += engine.step()
        again = msgspec.structs.replace(params, prompt_logprobs=None)
        engine.add_request(AddRequest("again", prompts[str(PROMPTS[-1])], again))
        while engine.has_work:
            events += engine.step()
        return events
    finally:
        executor.close()


def teacher_forced(package: Path, token_ids: list[int]) -> NDArray[np.float32]:
    command = [sys.executable, "-m", "pagedc.runtime.teacher_forcing", str(package)]
    done = subprocess.run(command, input=json.dumps(token_ids).encode(), capture_output=True, check=True)
    return np.frombuffer(done.stdout, np.float32).reshape(len(token_ids), -1)


def logits_of(model: torch.nn.Module, token_ids: list[int]) -> NDArray[np.float32]:
    with torch.inference_mode():
        logits: NDArray[np.float32] = model(torch.tensor([token_ids]), use_cache=False).logits[0].numpy()
        return logits


def test_no_code_names_a_family() -> None:
    """File formats name architectures, so what reads them may; what traces, lowers and prints may not."""
    (root,) = map(Path, pagedc.compiler.__path__)
    names = set(CONFIG_MAPPING_NAMES)
    found = [
        f"{path.relative_to(root)}: {literal}"
        for path in sorted(root.rglob("*.py"))
        if path.parent.name != "checkpoint"
        for literal in re.findall(r"[\"']([\w-]+)[\"']", path.read_text())
        if literal in names
    ]
    assert found == []
