"""The real client against a real server process."""

from typing import Any

import openai
import pytest
from tests.http.fake_engine import PANGRAM
from tests.http.server_process import ServerProcess

USER: Any = [{"role": "user", "content": "hi"}]


def test_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["fake", "alias"]
    assert client.models.retrieve("alias").owned_by == "pagedc"


def test_chat(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="fake", messages=USER, max_completion_tokens=9)
    assert answer.choices[0].message.content == PANGRAM[:9]
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "length"
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")
    assert answer._request_id == answer.id
    assert answer.system_fingerprint == "fp_0123456789ab"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 9
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 9
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == answer.usage.prompt_tokens // 16 * 16


def test_chat_stream(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="alias", messages=USER, max_tokens=20, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1]) == PANGRAM[:20]
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1] if chunk.choices[0].finish_reason] == [
        "length"
    ]
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert {chunk.model for chunk in chunks} == {"alias"}
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 20


def test_chat_with_several_choices(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="fake", messages=USER, max_tokens=6, n=3, seed=10)
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [choice.message.content for choice in answer.choices] == [
        PANGRAM[10 + i : 16 + i] for i in range(3)
    ]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 18


def test_stream_with_several_choices(client: openai.OpenAI) -> None:
    texts = ["", ""]
    for chunk in client.chat.completions.create(model="fake", messages=USER, max_tokens=6, n=2, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == [PANGRAM[:6], PANGRAM[1:7]]


@pytest.mark.parametrize("stream", [False, True])
def test_stop_string_ends_the_text_before_it(client: openai.OpenAI, stream: bool) -> None:
    arguments: dict[str, Any] = {
        "model": "fake",
        "messages": USER,
        "max_tokens": 40,
        "stop": ["never", " brown"],
    }
    if stream:
        chunks = list(client.chat.completions.create(**arguments, stream=True))
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        reason = chunks[-1].choices[0].finish_reason
    else:
        answer = client.chat.completions.create(**arguments)
        text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
        assert answer.choices[0].stop_reason == " brown"
        assert answer.usage.completion_tokens == len("The quick brown")
    assert text == "The quick"
    assert reason == "stop"


def test_stop_string_of_one_choice_leaves_the_other(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="fake", messages=USER, max_tokens=12, n=2, stop="Th")
    assert [choice.message.content for choice in answer.choices] == ["", PANGRAM[1:13]]
    assert [choice.finish_reason for choice in answer.choices] == ["stop", "length"]


def test_end_of_sequence(client: openai.OpenAI) -> None:
    messages: Any = [{"role": "user", "content": "#eos 4"}]
    answer = client.chat.completions.create(model="fake", messages=messages, max_tokens=12, logprobs=True)
    assert answer.choices[0].message.content == "The "
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 5
    assert answer.choices[0].logprobs is not None
    assert [entry.token for entry in answer.choices[0].logprobs.content or []] == ["T", "h", "e", " "]


@pytest.mark.parametrize("stream", [False, True])
def test_chat_logprobs(client: openai.OpenAI, stream: bool) -> None:
    arguments: dict[str, Any] = {
        "model": "fake", "messages": USER, "max_tokens": 3, "logprobs": True, "top_logprobs": 2
    }  # fmt: skip
    if stream:
        chunks = list(client.chat.completions.create(**arguments, stream=True))
        entries = [
            entry
            for chunk in chunks
            if chunk.choices[0].logprobs
            for entry in chunk.choices[0].logprobs.content
        ]
    else:
        entries = client.chat.completions.create(**arguments).choices[0].logprobs.content
    assert [entry.token for entry in entries] == ["T", "h", "e"]
    assert [entry.bytes for entry in entries] == [[84], [104], [101]]
    assert [entry.logprob for entry in entries] == [-0.5] * 3
    assert [[top.token for top in entry.top_logprobs] for entry in entries] == [
        ["T", "U"],
        ["h", "i"],
        ["e", "f"],
    ]


def test_text_parts_are_joined(client: openai.OpenAI, server: ServerProcess) -> None:
    parts: Any = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    count = server.ask("POST", "/tokenize", {"messages": [{"role": "user", "content": "a\nb"}]}).json()[
        "count"
    ]
    answer = client.chat.completions.create(
        model="fake", messages=[{"role": "user", "content": parts}], max_tokens=1
    )
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == count


def test_completion(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="fake", prompt="hello")
    assert answer.choices[0].text == PANGRAM[:16]
    assert answer.object == "text_completion"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 5


def test_completion_of_several_prompts(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="fake", prompt=["one", "three"], n=2, max_tokens=4, echo=True)
    expected = ["one" + PANGRAM[:4], "one" + PANGRAM[1:5], "three" + PANGRAM[:4], "three" + PANGRAM[1:5]]
    assert [choice.text for choice in answer.choices] == expected
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == 8
    assert answer.usage.completion_tokens == 16


def test_completion_of_token_ids(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="fake", prompt=[104, 105], max_tokens=2, echo=True)
    assert answer.choices[0].text == "hiTh"
    answer = client.completions.create(model="fake", prompt=[[104], [105, 106]], max_tokens=1, echo=True)
    assert [choice.text for choice in answer.choices] == ["hT", "ijT"]


@pytest.mark.parametrize("stream", [False, True])
def test_completion_logprobs_with_echo(client: openai.OpenAI, stream: bool) -> None:
    arguments: dict[str, Any] = {
        "model": "fake",
        "prompt": "hi",
        "max_tokens": 2,
        "logprobs": 1,
        "echo": True,
    }
    if stream:
        parts = [chunk.choices[0].logprobs for chunk in client.completions.create(**arguments, stream=True)]
        lists = [
            [value for part in parts if part for value in getattr(part, name)]
            for name in ("tokens", "token_logprobs", "text_offset", "top_logprobs")
        ]
    else:
        logprobs = client.completions.create(**arguments).choices[0].logprobs
        lists = [logprobs.tokens, logprobs.token_logprobs, logprobs.text_offset, logprobs.top_logprobs]
    assert lists[0] == ["h", "i", "T", "h"]
    assert lists[1] == [None, -0.5, -0.5, -0.5]
    assert lists[2] == [0, 1, 2, 3]
    assert lists[3] == [None, {"i": -0.5}, {"T": -0.5}, {"h": -0.5}]


def test_scoring_a_prompt_makes_no_tokens(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="fake", prompt="hi", max_tokens=0, logprobs=0, echo=True)
    assert answer.choices[0].text == "hi"
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.tokens == ["h", "i"]
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 0


def test_extensions(client: openai.OpenAI) -> None:
    extra = {
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "min_tokens": 1,
        "ignore_eos": True,
        "stop_token_ids": [ord("q")],
        "return_token_ids": True,
        "cache_salt": "mine",
        "priority": 3,
        "prompt_logprobs": 1,
        "chat_template_kwargs": {"enable_thinking": False},
    }
    answer: Any = client.chat.completions.create(model="fake", messages=USER, max_tokens=9, extra_body=extra)
    assert answer.choices[0].message.content == "The "
    assert answer.choices[0].stop_reason == ord("q")
    assert answer.choices[0].token_ids == list(b"The q")
    assert answer.prompt_token_ids[0] == 256
    assert answer.prompt_logprobs[0] is None
    assert len(answer.prompt_logprobs) == len(answer.prompt_token_ids)


def test_errors_become_the_clients_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as not_found:
        client.chat.completions.create(model="gpt-9", messages=USER)
    assert not_found.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="fake", messages=USER, temperature=-1)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        client.completions.create(model="fake", prompt="x" * 600)
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match="refused by the engine"):
        client.completions.create(model="fake", prompt="#refuse", stream=True)
    with pytest.raises(openai.InternalServerError) as dead:
        client.completions.create(model="fake", prompt="#die")
    assert dead.value.code == "engine_dead"


def test_an_engine_that_dies_ends_a_stream_with_an_error(client: openai.OpenAI) -> None:
    text = ""
    stream = client.completions.create(model="fake", prompt="#die", stream=True)
    with pytest.raises(openai.APIError, match="engine died"):  # noqa: PT012  what came before it counts
        for chunk in stream:
            text += chunk.choices[0].text
    assert text == PANGRAM[:3]
