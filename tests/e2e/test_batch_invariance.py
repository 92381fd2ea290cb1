"""A request's greedy tokens and their logprobs, bit for bit, whatever else runs and however."""

import random
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.generation import Generated, generate, make_prompts

NUM_TOKENS = 20
PROMPTS = make_prompts(257)
AT_ONCE = [0] * len(PROMPTS)
RANDOM_ORDER = [random.Random(i).randrange(60) for i in range(len(PROMPTS))]
ALONE: dict[Path, Generated] = {}


@pytest.fixture
def alone(tiny_package: Path) -> Generated:
    """What each prompt gives by itself."""
    if tiny_package not in ALONE:
        ALONE[tiny_package] = generate(tiny_package, PROMPTS, num_tokens=NUM_TOKENS)
    return ALONE[tiny_package]


@pytest.mark.parametrize(
    "variant",
    [
        {"arrivals": AT_ONCE},
        {"arrivals": RANDOM_ORDER},
        {"arrivals": RANDOM_ORDER, "prefix_cache": True},
        {"arrivals": AT_ONCE, "num_threads": 2},
        {"arrivals": RANDOM_ORDER, "num_threads": 3, "prefix_cache": True},
        {"num_threads": 2, "prefix_cache": True},
    ],
    ids=["at once", "random", "random, cached", "2 threads", "3 threads, cached", "alone, 2 threads"],
)
def test_outputs_are_those_of_each_prompt_alone(
    tiny_package: Path, alone: Generated, variant: dict[str, Any]
) -> None:
    together = generate(tiny_package, PROMPTS, num_tokens=NUM_TOKENS, **variant)
    assert together.outputs == alone.outputs
    assert all(len(output) == NUM_TOKENS for output in together.outputs)
    if variant.get("prefix_cache"):
        assert together.stats.prefix_cache_hits > 0


@pytest.mark.parametrize("prefix_cache", [False, True])
def test_preempted_requests_go_on_as_if_nothing_happened(
    tiny_package: Path, alone: Generated, prefix_cache: bool
) -> None:
    crowded = generate(
        tiny_package,
        PROMPTS,
        num_tokens=NUM_TOKENS,
        arrivals=AT_ONCE,
        prefix_cache=prefix_cache,
        num_blocks=12,
    )
    assert crowded.stats.num_preemptions > 0
    assert crowded.outputs == alone.outputs
