"""Structured output through the engine: a random model at temperature 1 writes nothing but what its grammar
says.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.http.tokenizer_files import write_tokenizer
from tests.patience import PATIENCE
from tests.runtime.mock_executor import MockExecutor, QueueingMock
from tests.runtime.schemas import schemas

from pagedc.runtime.config import EngineConfig
from pagedc.runtime.engine import Engine
from pagedc.runtime.grammars import (
    choice,
    grammar,
    json_object,
    json_schema,
    make_grammar,
    reasoning_rules,
    regex,
)
from pagedc.runtime.messages import AddRequest, TokenEvent
from pagedc.runtime.sampling_params import SamplingParams
from pagedc.runtime.structured_output import GrammarCompiler

EOS = 257
VOCAB_SIZE = 258
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 5},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def make_engine(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Engine]:
    """Engines over a mock model of bytes, that share what was compiled."""
    directory = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(directory)
    grammars = GrammarCompiler(directory / "tokenizer.json", VOCAB_SIZE, [EOS])

    def make(executor: type[MockExecutor] = MockExecutor, **changes: Any) -> Engine:
        values: dict[str, Any] = {
            "block_size": 4,
            "num_blocks": 256,
            "max_model_len": 512,
            "max_num_seqs": 8,
            "max_num_batched_tokens": 24,
            "max_num_rows": 12,
            "vocab_size": VOCAB_SIZE,
        }
        config = EngineConfig(**(values | changes))
        return Engine(executor(config), config, [EOS], grammars)

    return make


def request(name: str, grammar: str, **params: Any) -> AddRequest:
    return AddRequest(name, [1, 2, 3], SamplingParams(**({"grammar": grammar, "seed": 1} | params)))


def run(engine: Engine, *requests: AddRequest) -> dict[tuple[str, int], list[TokenEvent]]:
    for each in requests:
        engine.add_request(each)
    events: dict[tuple[str, int], list[TokenEvent]] = {}
    while engine.has_work:
        for event in engine.step():
            events.setdefault((event.request_id, event.index), []).append(event)
        engine.scheduler.block_manager.check_integrity(engine.scheduler.running)
    assert engine.scheduler.block_manager.usage == 0
    return events


def text_of(events: list[TokenEvent]) -> str:
    return bytes(token for event in events for token in event.token_ids if token < 256).decode()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(schema=schemas(), seed=st.integers(0, 2**32))
def test_whatever_is_finished_validates(make_engine: Callable[..., Engine], schema: Any, seed: int) -> None:
    engine = make_engine()
    (events,) = run(engine, request("r", json_schema(schema), seed=seed, max_tokens=300)).values()
    if events[-1].finish_reason == "stop":
        validator = jsonschema.Draft202012Validator
        validator(schema, format_checker=validator.FORMAT_CHECKER).validate(json.loads(text_of(events)))


@pytest.mark.parametrize(
    ("text", "is_right"),
    [
        (regex(r"[a-c]{3}/\d+"), lambda text: text[:3].isalpha() and text[4:].isdecimal()),
        (choice(['say "é"\n', "yes", "a\\b"]), lambda text: text in ('say "é"\n', "yes", "a\\b")),
        (
            grammar('start: "x" NUMBER ";"\nNUMBER: /[0-9]{2}/'),
            lambda text: text[0] == "x" and len(text) == 4,
        ),
        (grammar('root ::= "a" ("b" | "c")\n'), lambda text: text in ("ab", "ac")),
    ],
)
def test_forms_of_grammars(
    make_engine: Callable[..., Engine], text: str, is_right: Callable[[str], bool]
) -> None:
    (events,) = run(make_engine(), request("r", text, max_tokens=100)).values()
    assert events[-1].finish_reason == "stop"
    assert is_right(text_of(events))


@pytest.mark.parametrize("end", ['"</think>"', f"<[{EOS - 1}]>"])
def test_reasoning_may_come_before_the_answer(make_engine: Callable[..., Engine], end: str) -> None:
    text: dict[bool, list[str]] = {False: [], True: []}
    for is_open in (False, True):
        rules = reasoning_rules('"<think>"', end, is_open=is_open)
        made = make_grammar("choice", '["yes"]', rules)
        for seed in range(6):
            bias = {EOS - 1: 5.0, ord("y"): 5.0}
            each = request("r", made, seed=seed, max_tokens=400, logit_bias=bias)
            (events,) = run(make_engine(), each).values()
            if events[-1].finish_reason == "stop":
                text[is_open].append(text_of(events))
                assert text_of(events).endswith("yes")
    assert text[False]
    assert text[True] or end.startswith('"')  # which a random model does not spell
    assert all(each == "yes" or each.startswith("<think>") for each in text[False])


def test_forced_tokens_take_no_step(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    (events,) = run(engine, request("r", choice(["a long text that nothing else begins like", "b"]))).values()
    engine = make_engine()
    (events,) = run(engine, request("r", json_schema(PERSON))).values()
    text = text_of(events)
    num_free = len(json.loads(text)["name"].encode()) + len(str(json.loads(text)["age"]))
    assert text.startswith('{"name": "')
    assert engine.stats().num_steps <= num_free + 5 < len(text)
    assert engine.stats().num_generation_tokens == sum(len(event.token_ids) for event in events)


def test_logprobs_have_an_entry_a_token(make_engine: Callable[..., Engine]) -> None:
    (events,) = run(make_engine(), request("r", json_schema(PERSON), logprobs=2)).values()
    assert all([each.token_id for each in event.logprobs] == event.token_ids for event in events)
    jsonschema.validate(json.loads(text_of(events)), PERSON)


def test_max_tokens_cuts_and_says_so(make_engine: Callable[..., Engine]) -> None:
    for max_tokens in (1, 5, 12, 16):
        (events,) = run(make_engine(), request("r", json_schema(PERSON), max_tokens=max_tokens)).values()
        assert events[-1].finish_reason == "length"
        assert sum(len(event.token_ids) for event in events) == max_tokens
    whole = '{"name": "", "age": 1}'
    (events,) = run(make_engine(), request("r", choice([whole]), max_tokens=len(whole))).values()
    assert (text_of(events), events[-1].finish_reason) == (whole, "stop")


def test_min_tokens_waits_for_the_end_and_no_longer(make_engine: Callable[..., Engine]) -> None:
    bias = {EOS: 100}
    (events,) = run(make_engine(), request("r", regex("a{1,9}"), logit_bias=bias, min_tokens=5)).values()
    assert text_of(events) == "aaaaa"
    (events,) = run(make_engine(), request("r", regex("a{1,3}"), logit_bias=bias, min_tokens=5)).values()
    assert (text_of(events), events[-1].finish_reason) == ("aaa", "stop")


def test_a_stop_token_ends_it_where_it_is(make_engine: Callable[..., Engine]) -> None:
    (events,) = run(make_engine(), request("r", json_schema(PERSON), stop_token_ids=[ord("n")])).values()
    assert (text_of(events), events[-1].stop_token_id) == ('{"n', ord("n"))


MIXED = [
    request("person", json_schema(PERSON), seed=5),
    request("several", json_schema(PERSON), n=3, seed=6),
    request("object", json_object(), seed=7, max_tokens=60),
    request("penalties", regex("[a-z]{30}"), repetition_penalty=1.3, frequency_penalty=0.5),
    request("forced", choice(["x" * 70, "x" * 70 + "y"])),
    AddRequest("free", [4, 5, 6], SamplingParams(max_tokens=50, seed=3, ignore_eos=True)),
]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"max_num_batched_tokens": 8},
        {"num_blocks": 32, "max_model_len": 128},  # preempts
        {"num_blocks": 32, "max_model_len": 128, "max_num_batched_tokens": 9, "prefix_cache": False},
    ],
    ids=str,
)
def test_output_is_the_same_alone_and_in_any_batch(
    make_engine: Callable[..., Engine], changes: dict[str, Any]
) -> None:
    def tokens(events: dict[tuple[str, int], list[TokenEvent]]) -> dict[tuple[str, int], list[int]]:
        return {key: [token for event in each for token in event.token_ids] for key, each in events.items()}

    model_len = {"max_model_len": changes.get("max_model_len", 512)}
    alone = {}
    for each in MIXED:
        alone |= tokens(run(make_engine(prefix_cache=False, **model_len), each))
    engine = make_engine(**changes)
    assert tokens(run(engine, *MIXED)) == alone
    if "num_blocks" in changes:
        assert engine.stats().num_preemptions > 0


def test_a_grammar_that_cannot_be_compiled_is_the_requests_own_error(
    make_engine: Callable[..., Engine],
) -> None:
    engine = make_engine()
    bad = request("bad", '{"grammars": [{"lark_grammar": "start: nothing"}]}', n=2)
    events = run(engine, bad, request("good", choice(["a"])))
    assert list(events) == [("good", 0)]
    (refusal,) = engine.take_refusals()
    assert (refusal.request_id, refusal.code) == ("bad", "invalid_grammar")
    assert "nothing" in refusal.message


def test_a_grammar_that_grows_too_complex_ends_its_request_alone(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    events = run(engine, request("bad", regex("(.{1,1000}){1,1000}"), n=2), request("good", choice(["a"])))
    assert [key for key, each in events.items() if each[-1].finish_reason] == [("good", 0)]
    assert [refusal.request_id for refusal in engine.take_refusals()] == ["bad"]


def test_what_the_vocabulary_cannot_spell_is_refused(tmp_path: Path) -> None:
    write_tokenizer(tmp_path)
    file = tmp_path / "tokenizer.json"
    spelled = json.loads(file.read_text())
    vocabulary = spelled["model"]["vocab"]
    vocabulary["unused"] = vocabulary.pop("ó")  # the byte F3, with which U+F1234 begins
    file.write_text(json.dumps(spelled))
    config = EngineConfig(
        block_size=4, num_blocks=64, max_model_len=64, max_num_seqs=4, max_num_batched_tokens=24,
        max_num_rows=12, vocab_size=VOCAB_SIZE,
    )  # fmt: skip
    engine = Engine(MockExecutor(config), config, [EOS], GrammarCompiler(file, VOCAB_SIZE, [EOS]))
    events = run(engine, request("bad", choice(["ab\U000f1234c"])), request("good", choice(["abc"])))
    assert text_of(events["good", 0]) == "abc"
    assert all(each[-1].finish_reason is None for key, each in events.items() if key[0] == "bad")
    assert [refusal.request_id for refusal in engine.take_refusals()] == ["bad"]
    given = bytes(token for event in events["bad", 0] for token in event.token_ids)
    assert given == "ab\U000f1234".encode()[: len(given)]


def test_a_panic_of_the_library_ends_no_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PanicException(BaseException):
        pass

    def panic(*_: Any, **__: Any) -> None:
        raise PanicException("out of bounds")

    write_tokenizer(tmp_path)
    grammars = GrammarCompiler(tmp_path / "tokenizer.json", VOCAB_SIZE, [EOS])
    monkeypatch.setattr(grammars, "_read_tokenizer", panic)
    grammars.announce()
    for i in range(2):  # the thread outlives each
        grammars.submit(str(i), "start: /a/")
        (result,) = grammars.take(timeout=PATIENCE)
        assert (result.request_id, result.error) == (str(i), "PanicException: out of bounds")


def test_a_request_is_aborted_while_its_grammar_is_compiled(make_engine: Callable[..., Engine]) -> None:
    engine = make_engine()
    engine.add_request(request("r", choice(["never compiled before"]), n=2))
    assert engine.stats().num_waiting == 2
    engine.abort("r", 0)
    assert engine.has_work
    engine.abort("r")
    assert not engine.has_work
    assert run(engine, request("r", choice(["b"]))).keys() == {("r", 0)}


def test_an_engine_without_a_tokenizer_refuses() -> None:
    config = EngineConfig(
        block_size=4, num_blocks=16, max_model_len=64, max_num_seqs=2, max_num_batched_tokens=8,
        max_num_rows=4, vocab_size=VOCAB_SIZE,
    )  # fmt: skip
    engine = Engine(MockExecutor(config), config, [EOS])
    with pytest.raises(Exception, match="no tokenizer"):
        engine.add_request(request("r", choice(["a"])))


def test_a_grammar_is_followed_where_steps_overlap(make_engine: Callable[..., Engine]) -> None:
    requests = [request(str(i), json_schema(PERSON), seed=i, max_tokens=60) for i in range(3)]
    requests += [AddRequest("free", [1, 2], SamplingParams(seed=7, max_tokens=90, ignore_eos=True))]
    expected = run(make_engine(), *requests)
    found = run(make_engine(QueueingMock, max_num_seqs=2), *requests)
    for key, events in expected.items():
        assert [each.token_ids for each in found[key]] == [each.token_ids for each in events]
        if events[-1].finish_reason == "stop" and key[0] != "free":
            jsonschema.validate(json.loads(text_of(found[key])), PERSON)
