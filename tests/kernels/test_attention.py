import itertools
import random
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from tests.kernels.attention_harness import (
    Case,
    Float32,
    Step,
    compile_cases,
    random_tokens,
    run_steps,
)
from tests.kernels.harness import multiplies_bf16, supported_marches

from pagedc.kernels.reference.attention import AttentionConfig, attention


def case(
    heads: tuple[int, int],
    head_dim: int,
    v_head_dim: int,
    *,
    softcap: float = 0.0,
    window: int = 0,
    chunk: int = 0,
    has_slopes: bool = False,
    has_sinks: bool = False,
    bias_shape: tuple[int, int] = (0, 0),
    kv: str = "bf16",
) -> Case:
    config = AttentionConfig(
        num_heads=heads[0],
        num_kv_heads=heads[1],
        head_dim=head_dim,
        v_head_dim=v_head_dim,
        scale=round(head_dim**-0.5, 6),
        softcap=softcap,
        window=window,
        chunk=chunk,
    )
    assert kv in ("float", "bf16")
    return Case(
        config=config,
        kv="float" if kv == "float" else "bf16",
        has_sinks=has_sinks,
        has_slopes=has_slopes,
        bias_shape=bias_shape,
    )


# Every feature and every kind of shape once; the first two on every instruction path.
CASES = (
    case((6, 2), 64, 64),
    case((11, 1), 33, 17, kv="float", softcap=3.0, window=70, has_sinks=True),
    case((4, 4), 40, 96, window=300, has_sinks=True),
    case((5, 1), 33, 80, softcap=20.0, has_slopes=True),
    case((2, 1), 96, 128, window=1),
    case((4, 2), 24, 24, kv="float", chunk=70),
    case((4, 2), 24, 24, kv="float", window=300, bias_shape=(5, 70)),
)


def cases_of(march: str) -> tuple[Case, ...]:
    return CASES if march == "native" else CASES[:2]  # compiling takes most of the time


def to_bfloat16(x: Float32) -> Float32:
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)


def tables(case: Case) -> dict[str, Float32]:
    heads = np.arange(case.config.num_heads, dtype=np.float32)
    profiles = np.random.default_rng(0).standard_normal(case.bias_shape, dtype=np.float32)
    found = {"sinks": heads / 2 - 1} if case.has_sinks else {}
    found |= {"slopes": 0.05 * (heads + 1)} if case.has_slopes else {}
    return found | ({"profiles": profiles} if profiles.size else {})


def random_schedule(lengths: list[int], seed: int, max_chunk: int) -> list[Step]:
    """Mixed steps: some sequences prefill a chunk, some decode a token, some wait."""
    rng = random.Random(seed)
    done = [0] * len(lengths)
    steps: list[Step] = []
    while done != lengths:
        step: Step = []
        for s, length in enumerate(lengths):
            if done[s] < length and rng.random() < 0.7:
                chunk = rng.choice((1, 1, rng.randint(1, max_chunk)))
                step.append((s, done[s], min(done[s] + chunk, length)))
                done[s] = step[-1][2]
        if step:
            rng.shuffle(step)
            steps.append(step)
    return steps


def one_by_one(length: int) -> list[Step]:
    return [[(0, i, i + 1)] for i in range(length)]


def tolerance(kv: str, march: str) -> float:
    """Products of bf16 round queries and softmax weights to 8 bits of mantissa; the others are float32."""
    if kv == "float":
        return 2e-6
    return 3e-2 if march == "native" and multiplies_bf16() else 3e-5


@pytest.mark.parametrize("march", supported_marches())
def test_matches_the_reference(march: str) -> None:
    library = compile_cases(cases_of(march), march)
    lengths = [1, 17, 300, 530]
    for index, case in enumerate(cases_of(march)):
        sequences = [random_tokens(case, length, seed) for seed, length in enumerate(lengths)]
        given = tables(case)
        steps = random_schedule(lengths, seed=index, max_chunk=200)
        outs = run_steps(library, index, case, sequences, steps, num_threads=2, **given)
        for tokens, out in zip(sequences, outs, strict=True):
            k, v = (
                (tokens.k, tokens.v) if case.kv == "float" else (to_bfloat16(tokens.k), to_bfloat16(tokens.v))
            )
            biases = tokens.x @ given["profiles"] if "profiles" in given else None
            sinks, slopes = given.get("sinks"), given.get("slopes")
            expected = attention(case.config, tokens.q, k, v, np.arange(len(k)), sinks, slopes, biases)
            error = np.abs(out - expected)
            assert error.max() < tolerance(case.kv, march), index
            assert np.sqrt(np.mean(error**2)) < tolerance(case.kv, march) / 10, index


@pytest.mark.parametrize("march", supported_marches())
def test_output_does_not_depend_on_batch_chunks_or_threads(march: str) -> None:
    library = compile_cases(cases_of(march), march)
    lengths = [600, 270, 33]
    for index, case in enumerate(cases_of(march)):
        sequences = [random_tokens(case, length, seed) for seed, length in enumerate(lengths)]
        run = partial(run_steps, library, index, case, **tables(case))
        expected = [run([tokens], one_by_one(len(tokens.q)))[0] for tokens in sequences]
        schedules = (
            [[(i, 0, length) for i, length in enumerate(lengths)]],
            random_schedule(lengths, seed=1, max_chunk=20),
            random_schedule(lengths, seed=2, max_chunk=300),
        )
        for num_threads, steps in itertools.product((1, 2, 3), schedules):
            outs = run(sequences, steps, num_threads=num_threads, seed=num_threads)
            for out, alone in zip(outs, expected, strict=True):
                np.testing.assert_array_equal(out.view(np.uint32), alone.view(np.uint32))


def test_bfloat16_output_is_the_float_output_rounded() -> None:
    both = tuple(replace(case((3, 1), 24, 40), out=out) for out in ("float", "bf16"))
    library = compile_cases(both)
    tokens = random_tokens(both[0], 50, seed=0)
    exact, rounded = (run_steps(library, i, c, [tokens], [[(0, 0, 50)]])[0] for i, c in enumerate(both))
    np.testing.assert_array_equal(rounded, to_bfloat16(exact))
