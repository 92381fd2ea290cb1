"""Structured output on a real model: random JSON schemas at temperature 1, each finished answer validated,
and what following a grammar costs beside the model's own steps.

python -m benchmarks.structured PACKAGE [--count N] [--seed N] [--threads N] [--cost] [--write]
"""

import argparse
import json
import os
import statistics
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as with_seed
from tests.runtime.schemas import schemas

from benchmarks import record
from pagedc.runtime.config import EngineOptions, resolve
from pagedc.runtime.engine import Engine
from pagedc.runtime.executors import open_executor
from pagedc.runtime.grammars import json_schema
from pagedc.runtime.messages import AddRequest
from pagedc.runtime.package import Package
from pagedc.runtime.sampling_params import SamplingParams
from pagedc.runtime.structured_output import GrammarCompiler
from pagedc.runtime.tokenizer import Tokenizer

MAX_TOKENS = 200
NUM_SEQS = 8
COST_TURNS, COST_TOKENS = 6, 64


def random_schemas(count: int, seed: int) -> list[Any]:
    """The first `count` that hypothesis draws."""
    found: list[Any] = []

    @with_seed(seed)
    @settings(
        max_examples=count, phases=[Phase.generate], database=None, suppress_health_check=list(HealthCheck)
    )
    @given(schemas())
    def collect(schema: Any) -> None:
        found.append(schema)

    collect()
    return found


def measure(package: Package, drawn: list[Any], num_threads: int) -> dict[str, Any]:
    """Run every schema; the figures."""
    options = EngineOptions(
        num_threads=num_threads, max_num_seqs=NUM_SEQS, max_model_len=1024, prefix_cache=False
    )
    config = resolve(package.manifest, options)
    tokenizer = Tokenizer(package.tokenizer_path)
    eos = package.manifest.model.eos_token_ids
    grammars = GrammarCompiler(package.tokenizer_path / "tokenizer.json", config.vocab_size, eos)
    executor = open_executor(package, config)
    engine = Engine(executor, config, eos, grammars)
    texts: dict[str, list[int]] = {}
    outcome: Counter[str] = Counter()
    invalid: list[Any] = []
    refused: list[Any] = []
    for i, schema in enumerate(drawn):
        prompt = tokenizer.encode(f"Answer with JSON of the schema {json.dumps(schema)[:600]}:\n")
        params = SamplingParams(seed=i, max_tokens=MAX_TOKENS, grammar=json_schema(schema))
        engine.add_request(AddRequest(str(i), prompt, params))
    while engine.has_work:
        for event in engine.step():
            texts.setdefault(event.request_id, []).extend(event.token_ids)
            if event.finish_reason is None:
                continue
            outcome[event.finish_reason] += 1
            if event.finish_reason == "stop":
                text = tokenizer.decode([t for t in texts[event.request_id] if t not in eos])
                schema = drawn[int(event.request_id)]
                if not is_valid(text, schema):
                    invalid.append({"schema": schema, "text": text})
        for refusal in engine.take_refusals():
            outcome[f"refused: {refusal.message.rpartition(': ')[2]}"] += 1
            refused.append(drawn[int(refusal.request_id)])
    stats = engine.stats()
    grammars.prepare()
    cost = step_cost(engine, tokenizer.encode("Tell me about the sea, in JSON:\n"))
    executor.close()
    return {
        "schemas": len(drawn),
        "outcome": dict(outcome),
        "invalid": len(invalid),
        "invalid_examples": invalid[:5],
        "refused_examples": refused[:5],
        "tokens": stats.num_generation_tokens,
        "steps": stats.num_steps,
        "num_seqs": NUM_SEQS,
        **cost,
    }


def step_cost(engine: Engine, prompt: list[int]) -> dict[str, Any]:
    """A decode step of NUM_SEQS sequences with a grammar (a text in JSON) and without, taken in turns."""
    schema = {"type": "object", "properties": {"text": {"type": "string", "minLength": 9999}}}
    schema |= {"required": ["text"], "additionalProperties": False}
    seconds: dict[str, list[float]] = {"plain": [], "grammar": []}
    for turn in range(2 + 2 * COST_TURNS):  # the first two warm up
        kind = "grammar" if turn % 2 else "plain"
        grammar = json_schema(schema) if kind == "grammar" else ""
        for i in range(NUM_SEQS):
            params = SamplingParams(seed=i, max_tokens=COST_TOKENS, ignore_eos=not grammar, grammar=grammar)
            engine.add_request(AddRequest(f"{turn}-{i}", prompt, params))
        while engine.has_work:
            begin = time.perf_counter()
            events = engine.step()
            if len(events) == NUM_SEQS and turn > 1 and all(len(event.token_ids) == 1 for event in events):
                seconds[kind].append(time.perf_counter() - begin)
    plain, following = (statistics.median(seconds[kind]) for kind in ("plain", "grammar"))
    return {
        "decode_step_ms": round(1e3 * plain, 3),
        "decode_step_with_grammars_ms": round(1e3 * following, 3),
        "cost_of_a_grammar": round(following / plain - 1, 4),
    }


def is_valid(text: str, schema: Any) -> bool:
    """Whether a text is JSON of a schema, formats included."""
    validator = jsonschema.Draft202012Validator
    try:
        validator(schema, format_checker=validator.FORMAT_CHECKER).validate(json.loads(text))
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


def main() -> None:
    """Print the figures, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--cost", action="store_true", help="no schemas: only what a decode step costs more")
    parser.add_argument("--write", action="store_true", help="to results/structured.json")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    drawn = [] if options.cost else random_schemas(options.count, options.seed)
    figures = measure(Package.open(options.package), drawn, options.threads)
    print(json.dumps(figures, indent=2, ensure_ascii=False))
    if options.write:
        record.write("structured_cost" if options.cost else "structured", figures)


if __name__ == "__main__":
    main()
