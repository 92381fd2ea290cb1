import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.mock_executor import MockExecutor

from pagedc.runtime.config import EngineConfig
from pagedc.runtime.engine import Engine
from pagedc.runtime.errors import ContextLengthError, RequestError
from pagedc.runtime.intake import derive_seed
from pagedc.runtime.messages import AddRequest, TokenEvent
from pagedc.runtime.sampling_params import SamplingParams

VOCAB_SIZE = 40
EOS = 0


CONFIG: dict[str, Any] = {
    "block_size": 4,
    "num_blocks": 64,
    "max_model_len": 64,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 24,
    "max_num_rows": 12,
    "vocab_size": VOCAB_SIZE,
}


def make_engine(**changes: Any) -> Engine:
    config = EngineConfig(**(CONFIG | changes))
    return Engine(MockExecutor(config), config, [EOS])


def run(engine: Engine) -> dict[str, list[TokenEvent]]:
    """Step until nothing is left; each request's events."""
    events: dict[str, list[TokenEvent]] = {}
    while engine.has_work:
        for event in engine.step():
            events.setdefault(event.request_id, []).append(event)
        engine.scheduler.block_manager.check_integrity(engine.scheduler.running)
    assert engine.scheduler.block_manager.usage == 0
    return events


def request(name: str, prompt: list[int], **params: Any) -> AddRequest:
    return AddRequest(
        name, prompt, SamplingParams(**({"ignore_eos": True, "max_tokens": 12, "seed": 1} | params))
    )


def generate(engine: Engine, *requests: AddRequest) -> dict[tuple[str, int], list[int]]:
    for each in requests:
        engine.add_request(each)
    tokens: dict[tuple[str, int], list[int]] = {}
    for name, events in run(engine).items():
        for event in events:
            tokens.setdefault((name, event.index), []).extend(event.token_ids)
    return tokens


MIXED = [
    request("greedy", [5, 6, 7], temperature=0),
    request("sampled", [5, 6, 7, 8, 9, 10, 11, 12], seed=7),
    request("long", [i % 5 + 1 for i in range(45)], temperature=0.7, seed=3, max_tokens=15),
    request("same prefix", [i % 5 + 1 for i in range(44)], temperature=0, max_tokens=15),
    request("penalties", [5, 6, 7], repetition_penalty=1.3, frequency_penalty=0.5, presence_penalty=-0.5),
    request("bias", [9, 9], logit_bias={3: 5, 4: -100}, temperature=0),
    request("several", [1, 2, 3, 4, 5, 6, 7, 8, 9], n=3, seed=11),
    request("scored", [i % 7 + 1 for i in range(30)], prompt_logprobs=2, logprobs=3),
    request("ends", [4, 5, 6], ignore_eos=False, min_tokens=5, logit_bias={EOS: 20}, max_tokens=20),
]


CONFIGS: list[dict[str, Any]] = [
    {},
    {"prefix_cache": False},
    {"max_num_batched_tokens": 8},
    {"num_blocks": 24},  # preempts
    {"num_blocks": 24, "prefix_cache": False, "max_num_batched_tokens": 9, "max_num_rows": 8},
]


def alone() -> dict[tuple[str, int], list[int]]:
    tokens = {}
    for each in MIXED:
        tokens |= generate(make_engine(prefix_cache=False), each)
    return tokens


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_output_is_the_same_alone_and_in_any_batch(changes: dict[str, Any]) -> None:
    engine = make_engine(**changes)
    assert generate(engine, *MIXED) == alone()
    if "num_blocks" in changes:
        assert engine.stats().num_preemptions > 0
    assert generate(engine, *MIXED) == alone(), "now with a warm prefix cache"
    if engine.config.prefix_cache:
        assert engine.stats().prefix_cache_hits > 0


def test_n_sequences_share_the_prompt_but_not_the_random_numbers() -> None:
    engine = make_engine()
    tokens = generate(engine, request("r", [1, 2, 3, 4, 5, 6, 7, 8, 9], n=3))
    assert len({tuple(tokens["r", i]) for i in range(3)}) == 3
    assert engine.stats().prefix_cache_hits == 16
    assert engine.stats().num_prompt_tokens == 9


def test_a_seed_fixes_the_output_and_no_seed_draws_one() -> None:
    def sample(seed: int | None) -> list[int]:
        return generate(make_engine(), request("r", [1, 2], seed=seed))["r", 0]

    assert sample(5) == sample(5)
    assert sample(5) != sample(6)
    assert sample(-1) == sample(2**64 - 1)
    assert sample(None) != sample(None)


def test_seeds_of_neighbours_do_not_collide() -> None:
    keys = {derive_seed(seed, index) for seed in range(50) for index in range(50)}
    assert len(keys) == 2500


def test_finish_reasons() -> None:
    engine = make_engine()
    engine.add_request(request("length", [1], max_tokens=2))
    engine.add_request(request("eos", [1], logit_bias={EOS: 100}, ignore_eos=False))
    engine.add_request(request("ignored", [1], logit_bias={EOS: 100}, max_tokens=3))
    engine.add_request(request("stop id", [1], logit_bias={7: 100}, stop_token_ids=[7]))
    engine.add_request(request("model len", [1] * 60, max_tokens=None))
    events = run(engine)
    ends = {
        name: (len(all_), all_[-1].finish_reason, all_[-1].stop_token_id) for name, all_ in events.items()
    }
    assert ends == {
        "length": (2, "length", None),
        "eos": (1, "stop", EOS),
        "ignored": (3, "length", None),
        "stop id": (1, "stop", 7),
        "model len": (4, "length", None),
    }
    assert all(event.finish_reason is None for all_ in events.values() for event in all_[:-1])


def test_min_tokens_keeps_a_sequence_from_ending() -> None:
    engine = make_engine()
    params: dict[str, Any] = {"logit_bias": {EOS: 90, 7: 100}, "ignore_eos": False, "stop_token_ids": [7]}
    tokens = generate(engine, request("r", [1], min_tokens=4, **params))["r", 0]
    assert len(tokens) == 5
    assert tokens[-1] == 7
    assert not {EOS, 7} & set(tokens[:-1])


def test_logprobs_come_with_their_alternatives() -> None:
    engine = make_engine()
    engine.add_request(request("r", [1, 2, 3], logprobs=3, temperature=0))
    engine.add_request(request("chosen only", [1, 2, 3], logprobs=0, temperature=0))
    engine.add_request(request("none", [1, 2, 3], temperature=0))
    events = run(engine)
    for event in events["r"]:
        (logprob,) = event.logprobs
        assert logprob.token_id == event.token_ids[0]
        assert logprob.top[0] == (logprob.token_id, logprob.logprob)
        values = [value for _, value in logprob.top]
        assert len(values) == 3
        assert values == sorted(values, reverse=True)
    assert all(event.logprobs[0].top == [] for event in events["chosen only"])
    assert all(event.logprobs == [] for event in events["none"])


def test_prompt_logprobs_are_those_of_generating_the_prompt() -> None:
    engine = make_engine(max_num_rows=9, max_num_batched_tokens=8)
    prompt = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9]
    engine.add_request(request("scored", prompt, prompt_logprobs=1, n=2, max_tokens=1))
    events = run(engine)["scored"]
    assert [event.prompt_logprobs is not None for event in events] == [event.index == 0 for event in events]
    scores = next(event.prompt_logprobs for event in events if event.prompt_logprobs is not None)
    assert scores[0] is None
    for length in range(1, len(prompt)):
        engine.add_request(
            request("step", prompt[:length], max_tokens=1, logit_bias={prompt[length]: 100}, logprobs=1)
        )
        (event,) = run(engine)["step"]
        assert event.logprobs == [scores[length]]


def test_prompt_logprobs_of_one_token_are_one_none() -> None:
    engine = make_engine()
    engine.add_request(request("r", [1], prompt_logprobs=0, max_tokens=1))
    assert run(engine)["r"][0].prompt_logprobs == [None]


def test_cached_tokens_are_told_with_the_first_event() -> None:
    engine = make_engine()
    generate(engine, request("a", [1, 2, 3, 4, 5, 6], max_tokens=2))
    engine.add_request(request("b", [1, 2, 3, 4, 5, 6], max_tokens=2))
    assert [event.num_cached_tokens for event in run(engine)["b"]] == [4, 0]


def test_abort_in_every_state() -> None:
    engine = make_engine(max_num_seqs=4, max_num_batched_tokens=4)
    engine.add_request(request("decoding", [1]))
    engine.step()
    engine.add_request(request("prefilling", [1] * 30))
    engine.add_request(request("waiting", [1] * 9, n=3))
    engine.step()
    assert engine.stats().num_waiting == 3
    engine.abort("waiting")
    engine.abort("prefilling")
    engine.abort("unknown")
    engine.abort("decoding", index=5)
    assert set(run(engine)) == {"decoding"}
    engine.add_request(request("waiting", [1] * 9, n=3))
    engine.abort("waiting", index=0)  # the one whose prompt the others wait for
    engine.abort("waiting", index=2)
    assert {event.index for event in run(engine)["waiting"]} == {1}


def test_one_of_n_can_be_aborted_while_the_others_go_on() -> None:
    engine = make_engine()
    engine.add_request(request("r", [1, 2, 3], n=3))
    for _ in range(3):
        engine.step()
    engine.abort("r", index=1)
    assert {event.index for event in run(engine)["r"]} == {0, 2}


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (request("r", []), "the prompt is empty"),
        (request("r", [1, VOCAB_SIZE]), "prompt holds token id 40, not in"),
        (request("r", [1, -1]), "prompt holds token id -1, not in"),
        (request("r", [1, 2**40]), "prompt holds token id 1099511627776"),
        (request("r", [1], stop_token_ids=[99]), "stop_token_ids holds token id 99"),
        (request("r", [1], logit_bias={-2: 1}), "logit_bias holds token id -2"),
        (request("r", [1], n=9), "n is 9, above max_num_seqs, 8"),
        (request("open", [1]), "request_id open is in use"),
    ],
)
def test_a_bad_request_is_refused_and_changes_nothing(bad: AddRequest, message: str) -> None:
    engine = make_engine()
    engine.add_request(request("open", [1, 2]))
    with pytest.raises(RequestError, match=message):
        engine.add_request(bad)
    assert set(run(engine)) == {"open"}


def test_a_prompt_that_leaves_no_room_is_refused() -> None:
    with pytest.raises(ContextLengthError, match="the prompt has 64 tokens, but max_model_len is 64"):
        make_engine().add_request(request("r", [1] * 64))


def test_stats_count() -> None:
    engine = make_engine()
    generate(engine, request("a", [1, 2, 3], max_tokens=4), request("b", [4], max_tokens=2))
    stats = engine.stats()
    assert (stats.num_prompt_tokens, stats.num_generation_tokens, stats.num_steps) == (4, 6, 4)
    assert (stats.num_running, stats.num_waiting, stats.kv_cache_usage) == (0, 0, 0)
    assert engine.step() == []
    assert math.isfinite(stats.kv_cache_usage)


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_workloads_give_each_request_what_it_gets_alone(data: st.DataObject) -> None:
    batch_size = data.draw(st.integers(4, 24))
    config = {
        "num_blocks": data.draw(st.integers(16, 40)),
        "max_num_seqs": 4,
        "max_num_batched_tokens": batch_size,
        "max_num_rows": data.draw(st.integers(4, 9)),
        "prefix_cache": data.draw(st.booleans()),
    }
    requests = [
        request(
            f"r{i}",
            data.draw(st.lists(st.integers(1, 2), min_size=1, max_size=30)),
            seed=i,
            n=data.draw(st.integers(1, 3)),
            temperature=data.draw(st.sampled_from([0.0, 1.0])),
            repetition_penalty=data.draw(st.sampled_from([1.0, 1.5])),
            prompt_logprobs=data.draw(st.sampled_from([None, 0])),
            max_tokens=data.draw(st.integers(1, 25)),
        )
        for i in range(data.draw(st.integers(1, 5)))
    ]
    engine = make_engine(**config)
    tokens: dict[tuple[str, int], list[int]] = {}
    aborted: set[str] = set()
    waiting = list(requests)
    while waiting or engine.has_work:
        if waiting and (not engine.has_work or data.draw(st.booleans())):
            engine.add_request(waiting.pop(0))
        if data.draw(st.integers(0, 40)) == 0:
            aborted.add(name := data.draw(st.sampled_from(requests)).request_id)
            engine.abort(name)
        for event in engine.step():
            tokens.setdefault((event.request_id, event.index), []).extend(event.token_ids)
        engine.scheduler.block_manager.check_integrity(engine.scheduler.running)
    assert engine.scheduler.block_manager.usage == 0
    for each in requests:
        if each.request_id not in aborted:
            expected = generate(make_engine(prefix_cache=False), each)
            assert {key: found for key, found in tokens.items() if key[0] == each.request_id} == expected
