"""One model type, compiled and run in the engine, compared with Hugging Face's module in float32.

The package must agree in one sequence run in chunks and then token by token, and in the engine, where
prompts and generated tokens of several sequences share steps, prompts are cut anywhere and end on edges of
blocks, and a prompt that was seen before is taken from the prefix cache.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tests.compiler.families import randomised
from tests.conformance.shrink import small_config
from transformers import PretrainedConfig

import pagedc
from pagedc.compiler.errors import UnsupportedError
from pagedc.compiler.trace import new_module, quiet
from pagedc.runtime.config import EngineConfig, EngineOptions, resolve
from pagedc.runtime.engine import Engine
from pagedc.runtime.executors import open_executor
from pagedc.runtime.messages import AddRequest, TokenEvent
from pagedc.runtime.package import Package
from pagedc.runtime.sampling_params import SamplingParams
from pagedc.runtime.teacher_forcing import teacher_force

TOLERANCE = 1e-4  # of the largest logit
NUM_TOKENS = 120
PROMPTS = (1, 16, 23, 33, 64)  # tokens of each: within, on and past the edges of blocks
GENERATED = 12

Status = Literal["matched", "refused", "wrong", "failed", "not built"]
Logits = NDArray[np.float32]


class Outcome(NamedTuple):
    """What became of a type."""

    status: Status
    detail: str = ""  # the refusal, or what went wrong
    error: float | None = None  # largest difference of logits / largest logit
    features: tuple[str, ...] = ()


class DepartedError(Exception):
    """The package computes something else than the module."""


def check(model_type: str, directory: Path) -> Outcome:
    """Compile and compare one type; `directory` takes the checkpoint and the package."""
    try:
        _, model, failure = small_model(model_type)
    except Exception as error:  # whatever the module's own code raises
        return Outcome("not built", one_line(error))
    vocab_size = model.config.get_text_config(decoder=True).vocab_size  # type: ignore[union-attr]
    with quiet():
        model.save_pretrained(directory / "model")  # type: ignore[operator]
    try:
        package = pagedc.compile(
            directory / "model", directory / "package", dtype="float32", threads=1, dump_ir=directory / "ir"
        )
    except UnsupportedError as error:
        return Outcome("refused", str(error), features=features(directory / "ir"))
    found = features(directory / "ir")
    if failure is not None:
        return Outcome("not built", failure, features=found)
    try:
        error = compare(package, model, vocab_size)
    except DepartedError as departed:
        return Outcome("wrong", str(departed), features=found)
    return Outcome("matched", error=error, features=found)


def small_model(model_type: str) -> tuple[PretrainedConfig, torch.nn.Module, str | None]:
    """A small config, its module with random weights, and why it does not run on token ids alone, if so.

    Raises what transformers raises when it cannot be built.
    """
    built: tuple[PretrainedConfig, torch.nn.Module, str | None] | None = None
    first: Exception | None = None
    for fill in (False, True):
        try:
            config = small_config(model_type, fill)
            model = random_model(config)
        except Exception as error:
            first = first or error
            continue
        try:
            with torch.inference_mode(), quiet():
                logits_of(model, list(range(3, 3 + NUM_TOKENS // 2)))
            return config, model, None
        except Exception as error:
            built = built or (config, model, one_line(error))
    if built is not None:
        return built
    assert first is not None
    raise first


def random_model(config: PretrainedConfig) -> torch.nn.Module:
    """The module of a config in float32, of random parameters."""
    torch.manual_seed(0)
    with quiet():
        return randomised(new_module(config))


def compare(package: Path, model: torch.nn.Module, vocab_size: int) -> float:
    """The largest relative error seen. Raises DepartedError above the tolerance."""
    token_ids = np.random.default_rng(0).integers(3, vocab_size, NUM_TOKENS).tolist()
    opened = Package.open(package)
    options = EngineOptions(max_num_seqs=3, max_num_batched_tokens=17, num_threads=1, memory=2**31)
    config = resolve(opened.manifest, options)
    executor = open_executor(opened, config)
    try:
        expected = logits_of(model, token_ids)
        scale = np.abs(expected).max()
        found = np.concatenate(list(teacher_force(executor, config, token_ids)))
        error = _worst(found, expected, "one sequence, in chunks and then token by token")
        engine = Engine(executor, config, [])
        params = SamplingParams(temperature=0, max_tokens=GENERATED, ignore_eos=True, logprobs=0)
        with_prompt = SamplingParams(
            temperature=0, max_tokens=GENERATED, ignore_eos=True, logprobs=0, prompt_logprobs=0
        )
        prompts = {str(length): token_ids[:length] for length in PROMPTS}
        events = run(engine, prompts, with_prompt)
        for name, prompt in prompts.items():
            error = max(
                error, _check_request(model, prompt, [e for e in events if e.request_id == name], scale)
            )
        for name in ("first", "again"):  # the second finds the first's blocks
            events = run(engine, {name: token_ids[:64]}, params)
            error = max(error, _check_request(model, token_ids[:64], events, scale))
        return error
    finally:
        executor.close()


def run(engine: Engine, prompts: dict[str, list[int]], params: SamplingParams) -> list[TokenEvent]:
    """All events of requests that are added together."""
    for request_id, prompt in prompts.items():
        engine.add_request(AddRequest(request_id, prompt, params))
    events: list[TokenEvent] = []
    while engine.has_work:
        events += engine.step()
    return events


def _check_request(
    model: torch.nn.Module, prompt: list[int], events: list[TokenEvent], scale: float
) -> float:
    generated = [token_id for event in events for token_id in event.token_ids]
    whole = prompt + generated
    logits = logits_of(model, whole)
    logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    pairs = [p.logprob for p in (events[0].prompt_logprobs or []) if p is not None]
    pairs += [p.logprob for event in events for p in event.logprobs]
    expected = logprobs[np.arange(len(whole) - 1), whole[1:]][-len(pairs) :]
    where = f"a prompt of {len(prompt)} tokens in the engine"
    # Two logits, each within the tolerance, make a logprob; the greedy choice may be any within it.
    error = float(np.abs(np.array(pairs) - expected).max() / scale) / 2
    best = logits[len(prompt) - 1 : -1]
    lost = float((best.max(1) - best[np.arange(len(generated)), generated]).max() / scale) / 2
    if len(generated) != GENERATED or not max(error, lost) <= TOLERANCE:
        raise DepartedError(f"{where}: {max(error, lost):.1e} of the largest logit")
    return error


def _worst(found: Logits, expected: Logits, where: str) -> float:
    error = np.abs(found - expected).max(1) / np.abs(expected).max()
    if not error.max() <= TOLERANCE:
        first = int(np.argmax(~(error <= TOLERANCE)))
        raise DepartedError(f"{where}: {error.max():.1e} of the largest logit, first at token {first}")
    return float(error.max())


def logits_of(model: torch.nn.Module, token_ids: list[int]) -> Logits:
    """[len(token_ids), vocab_size] of one whole pass."""
    with torch.inference_mode(), quiet():
        logits: Logits = model(torch.tensor([token_ids]), use_cache=False).logits[0].float().numpy()
        return logits


def features(ir: Path) -> tuple[str, ...]:
    """What the graph's anchors show, from the text that the compile dumped."""
    files = sorted(ir.glob("*.txt")) if ir.is_dir() else []
    if not files:
        return ()
    text = files[-1].read_text()
    shapes = dict(re.findall(r"^%(\S+) : \w+\[([^\]]*)\]", text, re.MULTILINE))
    names: dict[str, None] = {}
    for line in text.splitlines():
        if match := re.search(r" = attention\((.*)\)", line):
            names.update(dict.fromkeys(_attention_features(match[1], shapes)))
    names.update({word: None for op, word in OPS.items() if f" = {op}(" in text})
    return tuple(names)


OPS = {"grouped_linear": "experts", "topk_index": "top-k", "cumsum": "running sum"}


def _attention_features(arguments: str, shapes: dict[str, str]) -> Iterable[str]:
    parts = [part.strip() for part in re.split(r", (?![^(]*\))", arguments)]
    values = [part for part in parts if "=" not in part]
    attrs: dict[str, Any] = dict(part.split("=", 1) for part in parts if "=" in part)
    q, k, v = ([int(size) for size in shapes[name].split(", ")] for name in values[:3])
    yield "MHA" if q[0] == k[0] else "MQA" if k[0] == 1 else "GQA"
    if v[1] < q[1]:
        yield "narrow values"
    for name, word in (
        ("window", "window"),
        ("chunk", "chunks"),
        ("softcap", "softcap"),
        ("slopes", "ALiBi"),
        ("extent", "distance biases"),
        ("sinks", "sinks"),
    ):
        if attrs.get(name, "0") not in ("0", "0.0", "None", "()", "False"):
            yield word


def one_line(error: BaseException) -> str:
    """Its type and first line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


__all__ = ["EngineConfig", "Outcome", "check", "one_line"]
