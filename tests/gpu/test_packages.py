"""Whole packages on a GPU: Hugging Face's logits, the same bits alone and in a batch, nothing compiled."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.compiler.families import VOCAB_SIZE, save_model
from tests.compiler.test_families import check_mixed_batches, logits_of, teacher_forced

import pagedc

pytestmark = pytest.mark.gpu

NAMES = (
    *("llama", "qwen3", "gemma2", "gemma3_text", "mixtral", "gpt2"),
    *("lfm2", "mamba2", "jamba", "qwen3_5_text"),  # layers with state
)


def compiled(name: str, directory: Path, dtype: str) -> tuple[Path, torch.nn.Module]:
    model = save_model(name, directory / "model")
    package = pagedc.compile(
        directory / "model",
        directory / "package",
        target="cuda",
        dtype=dtype,  # type: ignore[arg-type]
        max_num_seqs=8,
        max_num_batched_tokens=32,
        max_model_len=256,
        threads=4,  # several tests run at once
    )
    return package, model


@pytest.mark.parametrize("name", NAMES)
def test_float32_agrees_with_hugging_face(name: str, tmp_path: Path) -> None:
    package, model = compiled(name, tmp_path, "float32")
    token_ids = np.random.default_rng(0).integers(3, VOCAB_SIZE, 120).tolist()
    expected = logits_of(model, token_ids)
    error = np.abs(teacher_forced(package, token_ids) - expected).max()
    assert error <= 1e-4 * np.abs(expected).max()
    check_mixed_batches(package, model, token_ids)


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_is_near(name: str, tmp_path: Path) -> None:
    package, model = compiled(name, tmp_path, "bfloat16")
    token_ids = np.random.default_rng(0).integers(3, VOCAB_SIZE, 120).tolist()
    expected = logits_of(model, token_ids)
    found = teacher_forced(package, token_ids)
    assert np.abs(found - expected).max() <= 0.05 * np.abs(expected).max()
    assert (found.argmax(1) == expected.argmax(1)).mean() >= 0.9


GENERATE = """
import json, sys
from pagedc.runtime.sampling_params import SamplingParams
package, prompts = sys.argv[1], json.loads(sys.argv[2])
from pagedc.runtime.config import EngineOptions, resolve
from pagedc.runtime.engine import Engine
from pagedc.runtime.executors import open_executor
from pagedc.runtime.messages import AddRequest
from pagedc.runtime.package import Package
opened = Package.open(package)
config = resolve(opened.manifest, EngineOptions())
executor = open_executor(opened, config)
engine = Engine(executor, config, [])
for number, prompt in enumerate(prompts):
    params = SamplingParams(temperature=0, max_tokens=16, ignore_eos=True, logprobs=0)
    engine.add_request(AddRequest(str(number), prompt, params))
found = {str(number): [] for number in range(len(prompts))}
while engine.has_work:
    for event in engine.step():
        found[event.request_id] += [[t, p.logprob] for t, p in zip(event.token_ids, event.logprobs)]
executor.close()
print(json.dumps([found, [name for name in ("torch", "triton") if name in sys.modules]]))
"""


def generate(package: Path, prompts: list[list[int]]) -> tuple[dict[str, Any], list[str]]:
    command = [sys.executable, "-c", GENERATE, str(package), json.dumps(prompts)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found, imported = json.loads(done.stdout.splitlines()[-1])
    return found, imported


def test_a_request_has_the_same_bits_alone_and_in_a_batch(tmp_path: Path) -> None:
    package, _ = compiled("llama", tmp_path, "bfloat16")
    rng = np.random.default_rng(1)
    prompts = [rng.integers(3, VOCAB_SIZE, length).tolist() for length in (40, 3, 17, 90, 1, 64)]
    together, imported = generate(package, prompts)
    for number, prompt in enumerate(prompts):
        alone, _ = generate(package, [prompt])
        assert alone["0"] == together[str(number)]
    assert imported == []  # neither torch nor Triton: nothing can have been compiled
