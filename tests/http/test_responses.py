"""/v1/responses with the real client."""

from typing import Any

import openai
import pytest
from tests.http.fake_engine import PANGRAM
from tests.http.server_process import ServerProcess

TOOL: Any = {
    "type": "function",
    "name": "weather",
    "description": "Of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    "strict": False,
}
CALL = '#say {"name": "weather", "arguments": {"city": "Oslo"}}#'


def test_a_text(client: openai.OpenAI) -> None:
    answer = client.responses.create(
        model="fake", input="hi", instructions="Be brief.", max_output_tokens=9, metadata={"a": "b"}
    )
    assert answer.output_text == PANGRAM[:9]
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"
    assert answer.id.startswith("resp_")
    assert answer.metadata == {"a": "b"}
    assert answer.usage is not None
    assert answer.usage.output_tokens == 9
    assert answer.usage.total_tokens == answer.usage.input_tokens + 9


def test_a_conversation_as_items(client: openai.OpenAI) -> None:
    first = client.responses.create(model="fake", input="#say well#", temperature=0)
    assert first.status == "completed"
    assert first.output_text == "well"
    items: Any = [
        {"role": "developer", "content": "d"},
        {"role": "user", "content": [{"type": "input_text", "text": "#eos 3"}]},
        *[item.model_dump() for item in first.output],
        {"role": "user", "content": "and?"},
    ]
    answer = client.responses.create(model="fake", input=items)
    assert answer.output_text == PANGRAM[:3]


def test_a_stream_has_every_event_in_order(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="fake", input="#say abc#", stream=True))
    assert [event.type for event in events] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
        *["response.output_text.delta"] * 3,
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    with client.responses.stream(model="fake", input="#say abc#") as stream:
        assert "".join(event.delta for event in stream if event.type == "response.output_text.delta") == "abc"
        assert stream.get_final_response().output_text == "abc"
    *_, last = client.responses.create(model="fake", input="hi", max_output_tokens=2, stream=True)
    assert last.type == "response.incomplete"


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_and_its_result(client: openai.OpenAI, stream: bool) -> None:
    if stream:
        with client.responses.stream(model="fake", input=CALL, tools=[TOOL]) as events:
            answer: Any = events.get_final_response()
    else:
        answer = client.responses.create(model="fake", input=CALL, tools=[TOOL])
    (call,) = answer.output
    assert (call.type, call.name, call.status) == ("function_call", "weather", "completed")
    assert call.arguments == '{"city": "Oslo"}'
    fields = ("type", "id", "call_id", "name", "arguments", "status")
    items: Any = [
        {"role": "user", "content": "the weather?"},
        {name: getattr(call, name) for name in fields},
        {"type": "function_call_output", "call_id": call.call_id, "output": "rain #eos 2"},
    ]
    answer = client.responses.create(model="fake", input=items, tools=[TOOL])
    assert answer.output_text == PANGRAM[:2]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"store": True}, "store"),
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"background": True}, "background"),
        ({"include": ["message.output_text.logprobs"]}, "include"),
        ({"truncation": "auto"}, "truncation"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0].type"),
        ({"input": []}, "messages"),
        ({"input": [{"type": "function_call_output"}]}, "input[0]"),
        ({"temperature": -1}, "temperature"),
        ({"nonsense": 1}, "nonsense"),
        ({"input": [{"role": "user", "content": "x", "call_id": "c"}]}, "input[0].call_id"),
        ({"input": [{"type": "reasoning", "summary": [{"text": "x"}]}]}, "input[0].summary"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "x", "file_id": "f"}]}]},
            "input[0].content[0].file_id",
        ),
        ({"text": {"format": {"type": "text", "schema": {}}}}, "text.format.schema"),
    ],
)
def test_what_is_refused(server: ServerProcess, fields: dict[str, Any], param: str) -> None:
    answer = server.ask("POST", "/v1/responses", {"model": "fake", "input": "hi", **fields})
    assert answer.status == 400
    assert answer.error["param"] == param


def test_an_engine_that_dies_ends_the_stream(client: openai.OpenAI) -> None:
    *_, last = client.responses.create(model="fake", input="#die", stream=True)
    assert last.type == "error"
    assert "engine died" in last.message
