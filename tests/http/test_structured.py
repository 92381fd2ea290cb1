"""Structured output from a body to an answer: a random model, the real engine, its process and the server."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pydantic
import pytest
from tests.http.fake_engine import EOS
from tests.http.server_process import ServerProcess, events, fake_server
from tests.patience import PATIENCE

USER: Any = [{"role": "user", "content": "hi"}]


class Step(pydantic.BaseModel, extra="forbid"):
    """A part of an answer."""

    kind: Literal["add", "remove"]
    count: int = pydantic.Field(ge=0, le=99)


class Plan(pydantic.BaseModel, extra="forbid"):
    """An answer."""

    steps: list[Step] = pydantic.Field(max_length=2)
    note: str | None = pydantic.Field(max_length=4)


SCHEMA = {"name": "plan", "schema": Plan.model_json_schema(), "strict": True}
TOOLS: Any = [
    {"type": "function", "function": {"name": name, "parameters": Step.model_json_schema(), "strict": True}}
    for name in ("first", "second")
]


@pytest.fixture(scope="module", params=["hermes", "json"])
def server(tokenizer_dir: Path, request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    settings = {"random_engine": True, "tool_parser": request.param, "engine": {"max_model_len": 2048}}
    with fake_server(tokenizer_dir, settings) as process:
        yield process


@pytest.fixture(scope="module")
def thinking(tokenizer_dir: Path) -> Iterator[ServerProcess]:
    settings = {"random_engine": True, "reasoning_parser": "think", "engine": {"max_model_len": 2048}}
    with fake_server(tokenizer_dir, settings) as process:
        yield process


@pytest.fixture
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE
    ) as client:
        yield client


def test_parse(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(model="fake", messages=USER, response_format=Plan, n=3, seed=1)
    plans = [choice.message.parsed for choice in answer.choices]
    assert all(isinstance(plan, Plan) for plan in plans)
    assert len({str(plan) for plan in plans}) > 1
    assert {choice.finish_reason for choice in answer.choices} == {"stop"}


def test_a_stream_is_the_whole_answer(server: ServerProcess) -> None:
    fields = {"response_format": {"type": "json_schema", "json_schema": SCHEMA}, "seed": 3, "max_tokens": 300}
    whole = server.chat(**fields).json()
    chunks = events(server.chat(**fields, stream=True).body)
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    assert text == whole["choices"][0]["message"]["content"]
    Plan.model_validate_json(text)
    assert whole["usage"]["completion_tokens"] == len(text.encode())


@pytest.mark.parametrize(
    ("fields", "pattern"),
    [
        ({"guided_regex": r"[ab]{3}-\d"}, r"[ab]{3}-\d"),
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"guided_grammar": 'root ::= "x" [0-9]\n'}, "x[0-9]"),
        ({"structured_outputs": {"regex": "c{2}"}}, "cc"),
        ({"guided_json": {"const": {"a": [1, None]}}}, re.escape('{"a": [1, null]}')),
        ({"guided_json": '{"enum": [1, 2]}'}, "1|2"),
        ({"guided_choice": ["yes", "no"], "logprobs": 1}, "yes|no"),
    ],
    ids=str,
)
def test_completions(server: ServerProcess, fields: dict[str, Any], pattern: str) -> None:
    choice = server.complete(max_tokens=100, seed=1, **fields).json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert re.fullmatch(pattern, choice["text"])


def test_a_cut_answer_says_so(server: ServerProcess) -> None:
    choice = server.complete(guided_choice=["a long text"], max_tokens=4).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"]) == ("a lo", "length")


def test_a_stop_string_ends_it(server: ServerProcess) -> None:
    choice = server.complete(guided_choice=["a long text"], max_tokens=40, stop=["ng"]).json()["choices"][0]
    assert (choice["text"], choice["finish_reason"], choice["stop_reason"]) == ("a lo", "stop", "ng")


@pytest.mark.parametrize("stream", [False, True])
def test_a_required_call_is_made(server: ServerProcess, stream: bool) -> None:
    fields = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 500}
    for seed in range(3):
        answer = server.chat(**fields, seed=seed, stream=stream)
        assert answer.status == 200
        if stream:
            deltas = [chunk["choices"][0]["delta"] for chunk in events(answer.body)]
            functions = [call["function"] for delta in deltas for call in delta.get("tool_calls", ())]
            name = functions[0]["name"]
            arguments = "".join(function.get("arguments", "") for function in functions)
            assert not "".join(delta.get("content") or "" for delta in deltas)
        else:
            message = answer.json()["choices"][0]["message"]
            assert message["content"] is None
            (call,) = message["tool_calls"]
            name, arguments = call["function"]["name"], call["function"]["arguments"]
        assert name in ("first", "second")
        Step.model_validate_json(arguments)


def test_a_named_call_is_made(client: openai.OpenAI) -> None:
    choice: Any = {"type": "function", "function": {"name": "second"}}
    answer = client.chat.completions.create(
        model="fake", messages=USER, tools=TOOLS, tool_choice=choice, seed=1
    )
    (call,) = answer.choices[0].message.tool_calls or ()
    assert call.function.name == "second"
    Step.model_validate_json(call.function.arguments)
    assert answer.choices[0].finish_reason == "tool_calls"


def test_reasoning_may_come_first(thinking: ServerProcess) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [True]}}}
    choices = [
        thinking.chat(response_format=form, max_tokens=30, seed=seed).json()["choices"][0]
        for seed in range(8)
    ]
    messages = {choice["finish_reason"]: choice["message"] for choice in choices}
    assert messages["stop"]["content"] == "true"
    assert messages["length"]["reasoning_content"]
    assert messages["length"]["content"] == ""


def test_a_grammar_that_grows_too_complex_is_an_error_of_its_own(server: ServerProcess) -> None:
    answers: list[Any] = []
    other = threading.Thread(target=lambda: answers.append(server.complete(max_tokens=200, ignore_eos=True)))
    other.start()
    # The grammar allows the end after any character: without the bias one run in twenty met it first.
    answer = server.complete(
        guided_regex="(.{1,1000}){1,1000}", max_tokens=100, seed=1, logit_bias={str(EOS): -100}
    )
    other.join()
    assert (answer.status, answer.error["code"]) == (400, "invalid_grammar")
    assert answers[0].json()["usage"]["completion_tokens"] == 200


@pytest.mark.parametrize(
    "schema",
    [{"$ref": "#"}, {"type": "array", "items": {"$ref": "#"}, "minItems": 1}],
    ids=str,
)
def test_a_schema_without_an_end_says_so(server: ServerProcess, schema: dict[str, Any]) -> None:
    answer = server.complete(guided_json=schema, max_tokens=40, seed=1)
    assert (answer.status, answer.error["code"]) == (400, "invalid_grammar")
    assert "refer" in answer.error["message"]
    assert "without a way to end" in answer.error["message"]


def test_many_grammars_follow_one_another(server: ServerProcess) -> None:
    for i in range(100):
        answer = server.complete(guided_choice=[f"{i}"], max_tokens=10)
        assert answer.json()["choices"][0]["text"] == f"{i}"
