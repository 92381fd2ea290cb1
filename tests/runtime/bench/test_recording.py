"""What a stream of bytes is read as: the same however the network cut it."""

import json

from hypothesis import given
from hypothesis import strategies as st

from pagedc.runtime.bench.recording import address_of, parse

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
EVENTS = [
    {"choices": [{"text": "one", "finish_reason": None}]},
    {"choices": [{"text": "", "finish_reason": None}]},  # half a character
    {"choices": [{"text": " two", "finish_reason": "length"}]},
    {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 3}},
]


def body(events: list[object]) -> list[bytes]:
    return [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events] + [b"data: [DONE]\n\n"]


def chunked(parts: list[bytes]) -> bytes:
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)
    return HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n"


def plain(parts: list[bytes]) -> bytes:
    return HEAD + b"\r\n" + b"".join(parts)


def test_one_piece_an_event_gives_each_its_time() -> None:
    parts = body(EVENTS)
    pieces = [(10.0, HEAD + b"\r\n"), *((11.0 + i, part) for i, part in enumerate(parts))]
    answer = parse(9.5, pieces, 20.0)
    assert answer.error == ""
    assert answer.token_times == [11.0, 12.0, 13.0]
    assert (answer.num_tokens, answer.num_prompt_tokens, answer.ended) == (3, 7, 15.0)
    assert (answer.first_token, answer.time_per_token, answer.gaps) == (1.5, 1.0, [1.0, 1.0])


@given(st.booleans(), st.lists(st.integers(1, 40), max_size=40))
def test_however_it_is_cut_an_event_has_the_time_of_its_last_byte(is_chunked: bool, cuts: list[int]) -> None:
    parts = body(EVENTS)
    raw = (chunked if is_chunked else plain)(parts)
    pieces, position = [], 0
    for i, cut in enumerate([*cuts, len(raw)]):
        if raw[position : position + cut]:
            pieces.append((float(i), raw[position : position + cut]))
        position += cut
    answer = parse(-1.0, pieces, 99.0)
    assert answer.error == ""
    assert answer.num_tokens == 3
    ends = []
    for part in parts[:3]:
        end = raw.index(part) + len(part.rstrip(b"\n"))
        arrived = 0
        for when, piece in pieces:
            arrived += len(piece)
            if arrived >= end:
                ends.append(when)
                break
    assert answer.token_times == ends


def test_a_chat_counts_content_but_not_the_role_and_the_closing_event() -> None:
    events = [
        {"choices": [{"delta": {"role": "assistant", "content": ""}, "finish_reason": None}]},
        {"choices": [{"delta": {"content": "Hi"}, "finish_reason": None}]},
        {"choices": [{"delta": {}, "finish_reason": "stop"}]},
    ]
    answer = parse(0.0, [(1.0, chunked(body(events)))], 2.0)
    assert (answer.error, answer.num_tokens, answer.time_per_token) == ("", 1, None)


def test_failures_say_why() -> None:
    refused = b'HTTP/1.1 429 Too Many Requests\r\n\r\n{"error": "full"}'
    broken = plain([b'data: {"error": {"message": "the engine died"}}\n\n'])
    early = plain(body(EVENTS)[:2])
    for raw, why in (
        (refused, 'HTTP 429: {"error": "full"}'),
        (broken, "the engine died"),
        (early, "the stream ended before [DONE]"),
        (plain([b"data: [DONE]\n\n"]), "no token came"),
        (plain([b"data: {\n\n"]), "an event is no JSON: b'data: {'"),
        (b"", "no HTTP answer"),
    ):
        assert parse(0.0, [(1.0, raw)] if raw else [], 2.0).error == why


def test_addresses() -> None:
    assert address_of("http://h:81/v1/", "/v1/completions")[:3] == ("h", 81, "/v1/completions")
    assert address_of("h:81", "/v1/completions")[:3] == ("h", 81, "/v1/completions")
    assert address_of("https://h/proxy", "/v1/completions")[:3] == ("h", 443, "/proxy/v1/completions")
