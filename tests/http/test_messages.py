"""/v1/messages in Anthropic's form, also with the real client."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.http.fake_engine import PANGRAM
from tests.http.server_process import Answer, ServerProcess
from tests.patience import PATIENCE

TOOL = {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
CALL = '#say {"name": "weather", "arguments": {"city": "Oslo"}}#'


def ask(server: ServerProcess, **fields: Any) -> Answer:
    """POST /v1/messages with some fields changed."""
    body = {"model": "fake", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}], **fields}
    return server.ask("POST", "/v1/messages", body)


def test_a_message(server: ServerProcess) -> None:
    message = ask(server, system=[{"type": "text", "text": "Be brief.", "cache_control": None}]).json()
    assert message["content"] == [{"type": "text", "text": PANGRAM[:9]}]
    assert (message["stop_reason"], message["stop_sequence"]) == ("max_tokens", None)
    assert message["usage"]["output_tokens"] == 9
    stopped = ask(server, stop_sequences=[" qu"]).json()
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", " qu")
    assert ask(server, messages=[{"role": "user", "content": "#eos 2"}]).json()["stop_reason"] == "end_turn"


def test_the_events_of_a_stream(server: ServerProcess) -> None:
    body = ask(server, messages=[{"role": "user", "content": "#say ab#"}], stream=True).body.decode()
    events = [event.split("\n") for event in body.strip().split("\n\n")]
    values = [json.loads(data.removeprefix("data: ")) for _, data in events]
    assert [name for name, _ in events] == [f"event: {value['type']}" for value in values]
    assert [value["type"] for value in values] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert values[-2]["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": None}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "messages[0].content[0].type"),
        ({"messages": [{"role": "user", "content": []}]}, "messages[0].content"),
        ({"thinking": {"type": "enabled", "budget_tokens": 2000}}, "thinking"),
        ({"tools": [{"name": "x", "type": "web_search_20250305"}]}, "tools[0].type"),
        ({"tool_choice": {"type": "some"}}, "tool_choice.type"),
        ({"top_k": -5}, "top_k"),
        ({"container": "x"}, "container"),
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x", "source": {}}]}]},
            "messages[0].content[0].source",
        ),
        ({"system": [{"type": "text", "text": "x", "name": "n"}]}, "system[0].name"),
        ({"thinking": {"type": "disabled", "budget_tokens": 9}}, "thinking.budget_tokens"),
    ],
)
def test_what_is_refused(server: ServerProcess, fields: dict[str, Any], param: str) -> None:
    answer = ask(server, **fields)
    assert answer.status == 400
    assert answer.error["param"] == param


def test_keys_as_its_clients_send_them(start_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("sk-1\n")
    server = start_server(key_file=str(tmp_path / "keys"))
    body = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]}
    path = "/v1/messages/count_tokens"
    assert server.ask("POST", path, body).status == 401
    assert server.ask("POST", path, body, {"X-Api-Key": "sk-2"}).status == 401
    assert server.ask("POST", path, body, {"X-Api-Key": "sk-1", "Authorization": "Bearer sk-2"}).status == 401
    assert server.ask("POST", path, body, {"X-Api-Key": "sk-1"}).json()["input_tokens"] > 2
    assert server.ask("GET", "/v1/models", headers={"X-Api-Key": "sk-1"}).status == 401


def test_the_real_client(server: ServerProcess) -> None:
    import anthropic

    with anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0, timeout=PATIENCE) as client:
        user = {"role": "user", "content": "hi"}
        message = client.messages.create(model="fake", max_tokens=9, messages=[user])
        assert message.content[0].text == PANGRAM[:9]
        assert client.messages.count_tokens(model="fake", messages=[user]).input_tokens > 2
        with client.messages.stream(model="fake", max_tokens=12, messages=[user]) as stream:
            assert "".join(stream.text_stream) == PANGRAM[:12]
            assert stream.get_final_message().usage.output_tokens == 12
        asked = {"role": "user", "content": CALL}
        with client.messages.stream(model="fake", max_tokens=99, messages=[asked], tools=[TOOL]) as stream:
            called = stream.get_final_message()
        assert called.stop_reason == "tool_use"
        (call,) = called.content
        assert (call.name, call.input) == ("weather", {"city": "Oslo"})
        result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain #eos 2"}
        turns = [user, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]
        answer = client.messages.create(model="fake", max_tokens=9, messages=turns, tools=[TOOL])
        assert answer.content[0].text == PANGRAM[:2]
        with pytest.raises(anthropic.BadRequestError, match="temperature"):
            client.messages.create(
                model="fake", max_tokens=9, messages=[user], extra_body={"temperature": -1}
            )
