"""Tool calls, reasoning and typed answers through the real client."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pydantic
import pytest
from tests.http.server_process import ServerProcess, events, fake_server
from tests.patience import PATIENCE

CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
OTHER_CALL = CALL.replace("Paris", "Rome")
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


class Weather(pydantic.BaseModel):
    """The weather of a city."""

    city: str


def say(text: str) -> Any:
    return [{"role": "user", "content": f"#say {text}#end"}]


@pytest.fixture(scope="module")
def hermes(tokenizer_dir: Any) -> Iterator[ServerProcess]:
    engine = {"max_model_len": 4096}
    settings = {"tool_parser": "hermes", "reasoning_parser": "think", "engine": engine}
    with fake_server(tokenizer_dir, settings) as process:
        yield process


@pytest.fixture
def client(hermes: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{hermes.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE
    ) as client:
        yield client


def test_calls(client: openai.OpenAI) -> None:
    text = f"<think>\nWhere?\n</think>\n\nLet me look.\n{CALL}\n{OTHER_CALL}"
    answer = client.chat.completions.create(model="fake", messages=say(text), tools=[TOOL])
    message = answer.choices[0].message
    assert answer.choices[0].finish_reason == "tool_calls"
    assert message.content == "Let me look."
    assert message.reasoning_content == "Where?"  # type: ignore[attr-defined]
    cities = [json.loads(call.function.arguments)["city"] for call in message.tool_calls or ()]
    assert cities == ["Paris", "Rome"]
    assert len({call.id for call in message.tool_calls or ()}) == 2


def test_streamed_calls(client: openai.OpenAI) -> None:
    text = f"<think>Where?</think>Let me look.{CALL}{OTHER_CALL}"
    with client.chat.completions.stream(model="fake", messages=say(text), tools=[TOOL]) as stream:
        kinds = [event.type for event in stream]
        message = stream.get_final_completion().choices[0].message
    assert "tool_calls.function.arguments.delta" in kinds
    assert message.content == "Let me look."
    cities = [json.loads(call.function.arguments)["city"] for call in message.tool_calls or ()]
    assert cities == ["Paris", "Rome"]


def test_a_stream_says_what_the_whole_answer_says(hermes: ServerProcess) -> None:
    fields = {"messages": say(f"<think>a b</think> x {CALL} y {CALL}"), "tools": [TOOL], "max_tokens": 300}
    whole = hermes.chat(**fields).json()["choices"][0]["message"]
    gathered: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": {}}
    reasons = []
    for event in events(hermes.chat(**fields, stream=True).body):
        delta = event["choices"][0]["delta"]
        reasons.append(event["choices"][0]["finish_reason"])
        for name in ("content", "reasoning_content"):
            gathered[name] += delta.get(name) or ""
        for call in delta.get("tool_calls", ()):
            known = gathered["tool_calls"].setdefault(call["index"], {"name": "", "arguments": ""})
            for name in known:
                known[name] += call["function"].get(name, "")
    assert gathered["content"] == whole["content"] == "x\ny"
    assert gathered["reasoning_content"] == whole["reasoning_content"] == "a b"
    calls = [{name: call["function"][name] for name in ("name", "arguments")} for call in whole["tool_calls"]]
    assert list(gathered["tool_calls"].values()) == calls
    assert reasons[-1] == "tool_calls"


@pytest.mark.parametrize("stream", [False, True])
def test_without_parallel_calls_the_first_ends_the_answer(hermes: ServerProcess, stream: bool) -> None:
    fields = {"messages": say(CALL + OTHER_CALL), "tools": [TOOL], "max_tokens": 300}
    answer = hermes.chat(**fields, parallel_tool_calls=False, stream=stream)
    if stream:
        deltas = [event["choices"][0]["delta"] for event in events(answer.body)]
        calls = [call for delta in deltas for call in delta.get("tool_calls", ())]
    else:
        calls = answer.json()["choices"][0]["message"]["tool_calls"]
    assert "".join(call["function"]["arguments"] for call in calls) == '{"city": "Paris"}'


@pytest.mark.parametrize(
    "text", ["<tool_call>{broken</tool_call>", '<tool_call>{"name": 1}</tool_call>', "<tool_call>", "no call"]
)
@pytest.mark.parametrize("stream", [False, True])
def test_what_is_no_call_is_content(hermes: ServerProcess, text: str, stream: bool) -> None:
    answer = hermes.chat(messages=say(text), tools=[TOOL], max_tokens=100, stream=stream)
    assert answer.status == 200
    if stream:
        deltas = [event["choices"][0]["delta"] for event in events(answer.body)]
        assert "".join(delta.get("content") or "" for delta in deltas) == text
    else:
        choice = answer.json()["choices"][0]
        assert choice["message"]["content"] == text
        assert "tool_calls" not in choice["message"]
        assert choice["finish_reason"] == "stop"


@pytest.mark.parametrize("fields", [{}, {"tools": [TOOL], "tool_choice": "none"}], ids=str)
def test_without_tools_a_call_is_text(hermes: ServerProcess, fields: dict[str, Any]) -> None:
    answer = hermes.chat(messages=say(CALL), max_tokens=100, **fields)
    assert answer.json()["choices"][0]["message"]["content"] == CALL


def test_a_conversation_with_calls_and_results_goes_on(hermes: ServerProcess) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    messages = [
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
    ]
    assert hermes.chat(messages=messages, tools=[TOOL]).status == 200
    broken = {**call, "function": {"name": "weather", "arguments": "Paris"}}
    messages[1] = {"role": "assistant", "content": None, "tool_calls": [broken]}
    answer = hermes.chat(messages=messages, tools=[TOOL])
    assert answer.error["param"] == "messages[1].tool_calls[0].function.arguments"


def test_parse_gives_typed_answers(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model="fake", messages=say('{"city": "Oslo"}'), response_format=Weather
    )
    assert answer.choices[0].message.parsed == Weather(city="Oslo")


def test_parse_gives_typed_calls(client: openai.OpenAI) -> None:
    tool = openai.pydantic_function_tool(Weather, name="weather")
    answer = client.chat.completions.parse(model="fake", messages=say(CALL), tools=[tool])
    calls = answer.choices[0].message.tool_calls or []
    assert [call.function.parsed_arguments for call in calls] == [Weather(city="Paris")]


def test_logprobs_stand_beside_calls(hermes: ServerProcess) -> None:
    answer = hermes.chat(messages=say("<think>a</think>" + CALL), tools=[TOOL], max_tokens=200, logprobs=True)
    choice = answer.json()["choices"][0]
    assert len(choice["logprobs"]["content"]) == len("<think>a</think>" + CALL)
    assert choice["message"]["tool_calls"][0]["function"]["name"] == "weather"


def test_a_names_quotes_and_ids_that_a_template_wants(start_server: Callable[..., ServerProcess]) -> None:
    mistral = start_server(tool_parser="mistral", engine={"max_model_len": 4096})
    text = '[TOOL_CALLS][{"name": "we\\"ather\\n", "arguments": {}}]'
    (call,) = mistral.chat(messages=say(text), tools=[TOOL], max_tokens=100).json()["choices"][0]["message"][
        "tool_calls"
    ]
    assert call["function"]["name"] == 'we"ather\n'
    assert len(call["id"]) == 9
    assert call["id"].isalnum()


BROKEN = '<tool_call>{"name": "weather", "arguments": {"city": tru}}</tool_call>'


def test_arguments_stream_in_pieces(hermes: ServerProcess) -> None:
    answer = hermes.chat(messages=say("x" + CALL), tools=[TOOL], max_tokens=200, stream=True)
    chunks = [event["choices"][0]["delta"] for event in events(answer.body)]
    calls = [call for delta in chunks for call in delta.get("tool_calls", ())]
    assert calls[0]["function"] == {"name": "weather", "arguments": ""}
    assert len(calls) > len('{"city": "Paris"}') // 2
    assert {call["index"] for call in calls} == {0}
    assert "".join(call["function"]["arguments"] for call in calls) == '{"city": "Paris"}'


def test_a_call_that_breaks(hermes: ServerProcess) -> None:
    """A whole answer has it as text; a stream has begun it, and goes on behind it."""
    fields = {"messages": say(BROKEN + " Well." + CALL), "tools": [TOOL], "max_tokens": 300}
    choice = hermes.chat(**fields).json()["choices"][0]
    assert choice["message"]["content"] == BROKEN + " Well."
    assert len(choice["message"]["tool_calls"]) == 1
    deltas = [event["choices"][0]["delta"] for event in events(hermes.chat(**fields, stream=True).body)]
    calls: dict[int, str] = {}
    for call in [call for delta in deltas for call in delta.get("tool_calls", ())]:
        calls[call["index"]] = calls.get(call["index"], "") + call["function"]["arguments"]
    assert calls == {0: '{"city": tru}', 1: '{"city": "Paris"}'}
    assert "".join(delta.get("content") or "" for delta in deltas).strip() == "Well."


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/responses"])
@pytest.mark.parametrize("text", [BROKEN + "Well.", 'a<tool_call>{"name": "weather", "arguments": {"x": '])
def test_a_call_that_breaks_in_items(hermes: ServerProcess, path: str, text: str) -> None:
    schema = TOOL["function"]["parameters"]
    body: dict[str, Any] = {
        "messages": say(text),
        "tools": [{"name": "weather", "input_schema": schema}],
        "max_tokens": 200,
    }
    if path == "/v1/responses":
        tool = {"type": "function", "name": "weather", "parameters": schema}
        body = {"input": say(text), "tools": [tool], "max_output_tokens": 200}
    whole = hermes.ask("POST", path, {"model": "fake", **body}).json()
    (item,) = whole["content"] if path == "/v1/messages" else whole["output"][0]["content"]
    assert item["text"].strip() == text.strip()
    streamed = hermes.ask("POST", path, {"model": "fake", "stream": True, **body}).body.decode()
    assert "event: error" not in streamed
    if path == "/v1/responses":
        assert '"status":"incomplete","call_id"' in streamed
    else:
        assert '"stop_reason":"end_turn"' in streamed


def test_arguments_with_half_of_a_surrogate_pair(hermes: ServerProcess) -> None:
    text = CALL.replace("Paris", "\\ud800")
    tool = {"name": "weather", "input_schema": TOOL["function"]["parameters"]}
    body = {"model": "fake", "messages": say(text), "tools": [tool], "max_tokens": 200}
    answer = hermes.ask("POST", "/v1/messages", body)
    assert answer.json()["content"][0]["input"] == {"city": "\ud800"}
