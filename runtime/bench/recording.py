"""One streamed answer, kept as bytes with the time of their arrival and read only when the load is over.

The client shares the machine with the server that it measures: while requests run it stores what arrives and
parses nothing.
"""

import asyncio
import json
import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from ssl import SSLContext


class Address(NamedTuple):
    """Where requests go."""

    host: str
    port: int
    path: str  # "/v1/completions"
    ssl: "SSLContext | None"
    key: str  # "" = none


def address_of(url: str, path: str, key: str = "") -> Address:
    """Of a server's URL, with or without /v1. Raises ValueError."""
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not the address of a server")
    context = None
    if parts.scheme == "https":
        import ssl

        context = ssl.create_default_context()
    root = parts.path.rstrip("/").removesuffix("/v1")
    return Address(parts.hostname, parts.port or (443 if context else 80), root + path, context, key)


@dataclass(slots=True)
class Answer:
    """What one request came to; times are of time.perf_counter."""

    started: float
    ended: float
    token_times: list[float] = field(default_factory=list)  # of each event that carried text
    num_tokens: int = 0  # that the server counted; else events
    num_prompt_tokens: int | None = None
    error: str = ""  # why it failed; "" = it did not

    @property
    def first_token(self) -> float:
        """Seconds to the first token."""
        return self.token_times[0] - self.started

    @property
    def time_per_token(self) -> float | None:
        """Seconds a token after the first; None where there is no second."""
        if self.num_tokens < 2:
            return None
        return (self.token_times[-1] - self.token_times[0]) / (self.num_tokens - 1)

    @property
    def gaps(self) -> list[float]:
        """Seconds between events that carried text."""
        return [b - a for a, b in zip(self.token_times, self.token_times[1:], strict=False)]


class _Recorder(asyncio.Protocol):
    def __init__(self, closed: asyncio.Future[None]) -> None:
        self.closed = closed
        self.pieces: list[tuple[float, bytes]] = []

    def data_received(self, data: bytes) -> None:
        self.pieces.append((time.perf_counter(), data))

    def connection_lost(self, error: Exception | None) -> None:
        if not self.closed.done():
            self.closed.set_result(None)


async def record(
    address: Address, body: dict[str, Any], timeout: float
) -> tuple[float, list[tuple[float, bytes]], float, str]:
    """POST and keep what comes until the server closes: start, pieces, end, error."""
    data = json.dumps(body).encode()
    key = f"Authorization: Bearer {address.key}\r\n" if address.key else ""
    head = (
        f"POST {address.path} HTTP/1.1\r\nHost: {address.host}:{address.port}\r\n{key}"
        "Content-Type: application/json\r\nAccept: text/event-stream\r\nConnection: close\r\n"
        f"Content-Length: {len(data)}\r\n\r\n"
    )
    loop = asyncio.get_running_loop()
    recorder = _Recorder(loop.create_future())
    started, error, transport = time.perf_counter(), "", None
    try:
        async with asyncio.timeout(timeout):
            transport, _ = await loop.create_connection(
                lambda: recorder, address.host, address.port, ssl=address.ssl
            )
            transport.write(head.encode() + data)
            await recorder.closed
    except TimeoutError:
        error = f"nothing whole after {timeout:g} s"
    except OSError as failure:
        error = str(failure)
    finally:
        if transport is not None:
            transport.close()
    return started, recorder.pieces, time.perf_counter(), error


def parse(started: float, pieces: list[tuple[float, bytes]], ended: float, error: str = "") -> Answer:
    """An Answer of what `record` kept."""
    answer = Answer(started, pieces[-1][0] if pieces else ended, error=error)
    if error:
        return answer
    raw = b"".join(piece for _, piece in pieces)
    head, _, _ = raw.partition(b"\r\n\r\n")
    words = head.split(b" ", 2)
    if len(words) < 2 or not words[1].isdigit():
        answer.error = "no HTTP answer"
        return answer
    chunked = b"transfer-encoding: chunked" in head.lower()
    body, starts = _body(raw, len(head) + 4, chunked)
    if words[1] != b"200":
        answer.error = f"HTTP {words[1].decode()}: {body[:300].decode(errors='replace').strip()}"
        return answer
    ends, position = [], 0
    for _, piece in pieces:
        position += len(piece)
        ends.append(position)

    def arrived(offset: int) -> float:
        body_start, raw_start = starts[max(bisect_left(starts, (offset + 1, 0)) - 1, 0)]
        return pieces[bisect_left(ends, raw_start + offset - body_start + 1)][0]

    _read_events(answer, body, arrived)
    if not answer.error and not answer.token_times:
        answer.error = "no token came"
    return answer


def _body(raw: bytes, start: int, chunked: bool) -> tuple[bytes, list[tuple[int, int]]]:
    """The body, and where its parts lie: (offset in the body, offset in the bytes that came)."""
    if not chunked:
        return raw[start:], [(0, start)]
    parts: list[bytes] = []
    starts, length = [(0, start)], 0
    while (line := raw.find(b"\r\n", start)) >= 0:
        try:
            size = int(raw[start:line].split(b";")[0], 16)
        except ValueError:
            break
        if size == 0:
            break
        starts.append((length, line + 2))
        parts.append(raw[line + 2 : line + 2 + size])
        length += size
        start = line + 2 + size + 2
    return b"".join(parts), starts


def _read_events(answer: Answer, body: bytes, arrived: Callable[[int], float]) -> None:
    """Fill in the times of events with text, the counts and an error that came as an event."""
    position, counted, done = 0, None, False
    for line in body.split(b"\n"):
        offset, position = position, position + len(line) + 1
        text = line.strip()
        if not text.startswith(b"data:"):
            continue
        if text[5:].strip() == b"[DONE]":
            done = True
            continue
        try:
            event = json.loads(text[5:])
        except ValueError:
            answer.error = f"an event is no JSON: {text[:80]!r}"
            return
        if "error" in event:
            answer.error = str(event["error"].get("message", event["error"]))
            return
        usage = event.get("usage") or {}
        counted = usage.get("completion_tokens", counted)
        answer.num_prompt_tokens = usage.get("prompt_tokens", answer.num_prompt_tokens)
        if any(_has_token(choice) for choice in event.get("choices", ())):
            answer.token_times.append(arrived(offset + len(line) - 1))
    answer.num_tokens = len(answer.token_times) if counted is None else int(counted)
    if not done:
        answer.error = "the stream ended before [DONE]"


def _has_token(choice: dict[str, Any]) -> bool:
    """Text, or a token without text (half of a character): not the closing event."""
    text = choice.get("text", (choice.get("delta") or {}).get("content"))
    return bool(text) or (text is not None and choice.get("finish_reason") is None and "text" in choice)
