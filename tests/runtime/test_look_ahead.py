from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.runtime.mock_executor import MockExecutor, QueueingMock
from tests.runtime.test_engine import CONFIG, CONFIGS, EOS, MIXED, generate, make_engine, request, run

from pagedc.runtime.config import EngineConfig
from pagedc.runtime.engine import Engine
from pagedc.runtime.messages import AddRequest, TokenEvent
from pagedc.runtime.sampling_params import SamplingParams


def queueing(**changes: Any) -> tuple[Engine, QueueingMock]:
    config = EngineConfig(**(CONFIG | changes))
    executor = QueueingMock(config)
    return Engine(executor, config, [EOS]), executor


@pytest.mark.parametrize("changes", CONFIGS, ids=str)
def test_events_are_those_of_one_step_at_a_time(changes: dict[str, Any]) -> None:
    for round_ in ("cold", "with a warm prefix cache"):
        engine, executor = queueing(**changes)
        expected = generate(make_engine(**changes), *MIXED)
        assert generate(engine, *MIXED) == expected, round_
        assert executor.num_overlaps > 5
    if "num_blocks" in changes:
        assert engine.stats().num_preemptions > 0


def test_steps_overlap_from_the_first_token_to_the_last() -> None:
    engine, executor = queueing()
    assert len(generate(engine, request("r", [1, 2, 3], max_tokens=10))["r", 0]) == 10
    assert (executor.num_steps, executor.num_overlaps) == (10, 9)  # its end is known: no row is dropped


def test_a_stop_token_costs_one_dropped_row_that_nobody_sees() -> None:
    params: dict[str, Any] = {"logit_bias": {7: 100}, "stop_token_ids": [7], "temperature": 0}
    engine, executor = queueing()
    engine.add_request(request("r", [1, 2, 3, 4, 5, 6, 7], **params))
    (event,) = run(engine)["r"]
    assert (event.token_ids, event.finish_reason, event.stop_token_id) == ([7], "stop", 7)
    assert executor.num_steps == 2
    assert engine.stats().num_generation_tokens == 1
    # The dropped row stored the stop token as the eighth: that block is not known by its content.
    engine.add_request(request("again", [1, 2, 3, 4, 5, 6, 7, 7, 9], max_tokens=1))
    assert run(engine)["again"][0].num_cached_tokens == 4


def test_counts_and_history_do_not_wait() -> None:
    engine, executor = queueing()
    counts: dict[str, Any] = {"min_tokens": 5, "logit_bias": {3: 1.0}, "logprobs": 2, "ignore_eos": False}
    asked = request("r", [1, 2, 3], max_tokens=8, seed=9, presence_penalty=0.5, **counts)
    expected = generate(make_engine(), asked)
    assert generate(engine, asked) == expected
    assert executor.num_overlaps >= len(expected["r", 0]) - 1


def test_blocks_of_an_aborted_sequence_go_to_another_while_its_step_runs() -> None:
    engine, _ = queueing(num_blocks=16, prefix_cache=False)
    engine.add_request(request("gone", [1] * 30, max_tokens=30))
    for _ in range(3):
        engine.step()
    engine.abort("gone")
    assert engine.has_work  # a step of it still runs
    assert engine.scheduler.block_manager.usage == 0
    asked = request("next", [2] * 50, max_tokens=10)
    assert generate(engine, asked) == generate(make_engine(), asked)
    assert not engine.has_work


def test_the_first_token_of_several_comes_once_they_are_admitted_late() -> None:
    engine, _ = queueing(max_num_seqs=2)
    asked = request("r", [1, 2, 3, 4, 5, 6, 7, 8, 9], n=2, max_tokens=5)
    assert generate(engine, asked) == generate(make_engine(max_num_seqs=2), asked)
    assert engine.stats().prefix_cache_hits == 8


@pytest.mark.parametrize("pooling", ["mean", "last", "cls"])
def test_an_embedding_is_made_beside_sequences_that_decode(pooling: Any) -> None:
    asked = AddRequest("e", [3, 1, 4, 1, 5, 9, 2, 6, 5, 3], SamplingParams(max_tokens=1), pooling=pooling)
    engine, executor = queueing(hidden_size=8, max_num_seqs=4, max_num_batched_tokens=4)
    alone = make_engine(hidden_size=8)
    alone.add_request(asked)
    engine.add_request(request("r", [1, 2, 3]))
    engine.add_request(AddRequest("gone", [2] * 9, SamplingParams(max_tokens=1), pooling=pooling))
    engine.step()
    engine.step()
    engine.abort("gone")  # in the middle of its prompt
    engine.add_request(asked)
    assert run(engine)["e"][0].embedding == run(alone)["e"][0].embedding
    assert executor.num_overlaps > 5
    assert not engine._poolers


def check_registered_blocks(engine: Engine) -> None:
    """The blocks of a running sequence that the prefix cache knows hold the sequence's own tokens."""
    manager, executor = engine.scheduler.block_manager, engine._steps._device
    assert isinstance(executor, MockExecutor)
    size = manager.block_size
    for sequence in engine.scheduler.running:
        for i, block in enumerate(sequence.block_table[: sequence.num_committed_blocks]):
            stored = executor._cache[block * size : (block + 1) * size].tolist()
            assert stored == sequence.token_ids[i * size : (i + 1) * size].tolist()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_random_workloads_give_the_same_events(data: st.DataObject) -> None:
    config = {
        "num_blocks": data.draw(st.integers(16, 40)),
        "max_num_seqs": 4,
        "max_num_batched_tokens": data.draw(st.integers(4, 24)),
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
            repetition_penalty=data.draw(st.sampled_from([1.0, 1.0, 1.0, 1.5])),
            prompt_logprobs=data.draw(st.sampled_from([None, None, 0])),
            logprobs=data.draw(st.sampled_from([None, 1])),
            logit_bias={EOS: data.draw(st.integers(0, 6))},
            ignore_eos=data.draw(st.booleans()),
            min_tokens=data.draw(st.integers(0, 3)),
            max_tokens=data.draw(st.integers(3, 25)),
        )
        for i in range(data.draw(st.integers(1, 5)))
    ]
    engine, _ = queueing(**config)
    events: dict[tuple[str, int], list[TokenEvent]] = {}
    aborted: set[tuple[str, int | None]] = set()
    waiting = list(requests)
    while waiting or engine.has_work:
        if waiting and (not engine.has_work or data.draw(st.booleans())):
            engine.add_request(waiting.pop(0))
        if data.draw(st.integers(0, 20)) == 0:
            name, index = (
                data.draw(st.sampled_from(requests)).request_id,
                data.draw(st.sampled_from([None, 0])),
            )
            engine.abort(name, index)
            if name not in {each.request_id for each in waiting}:
                aborted.add((name, index))
        for event in engine.step():
            key = (event.request_id, event.index)
            assert not aborted & {key, (event.request_id, None)}
            events.setdefault(key, []).append(event)
        engine.scheduler.block_manager.check_integrity(engine.scheduler.running)
        check_registered_blocks(engine)
    assert engine.scheduler.block_manager.usage == 0
    assert not any((engine._sequences, engine._prompt_logprobs, engine._poolers, engine._siblings))
    for each in requests:
        alone: dict[tuple[str, int], list[TokenEvent]] = {}
        single = make_engine(prefix_cache=False)
        single.add_request(each)
        for event in run(single)[each.request_id]:
            alone.setdefault((event.request_id, event.index), []).append(event)
        for key, expected in alone.items():
            if not aborted & {key, (key[0], None)}:
                assert list(map(told, events[key])) == list(map(told, expected))


def told(event: TokenEvent) -> tuple[Any, ...]:
    """An event but for what depends on when it came."""
    return (event.token_ids, event.logprobs, event.finish_reason, event.stop_token_id, event.prompt_logprobs)
