"""Who answers in `pagedc chat`: an engine of one's own, or a server."""

import argparse
import asyncio
import http
import http.client
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, closing, suppress
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from pagedc.runtime.errors import PagedcError, RequestError, UsageError

CONNECT_TIMEOUT = 10.0  # seconds
ANSWER_TIMEOUT = 3600.0  # seconds without a byte

OnChunk = Callable[[bytes], None]


class PackageBackend:
    """A package opened by this process."""

    def __init__(self, engine: Any, model: Any, sampling: dict[str, Any]) -> None:
        self.name = model.name
        self._engine = engine
        self._model = model
        self._sampling = {**model.default_sampling, **sampling}
        self._num_answers = 0

    async def answer(self, messages: list[dict[str, Any]]) -> AsyncIterator[str]:
        """Pieces of text as the engine makes them."""
        from pagedc.runtime.detokenizer import Detokenizer
        from pagedc.runtime.sampling_params import SamplingParams

        tokenizer, template = self._model.tokenizer, self._model.chat_template
        prompt = await asyncio.to_thread(tokenizer.encode_chat, template, messages)
        room = self._model.max_model_len - len(prompt)
        if room < 1:
            raise RequestError(
                f"the conversation fills the context of {self._model.max_model_len} tokens; /clear it"
            )
        max_tokens = min(self._sampling.get("max_tokens") or room, room)
        params = SamplingParams(**{**self._sampling, "max_tokens": max_tokens})
        self._num_answers += 1
        detokenizer = Detokenizer(tokenizer, prompt_token_ids=prompt)
        async with aclosing(self._engine.generate(f"chat-{self._num_answers}", prompt, params)) as events:
            async for event in events:
                token_ids = event.token_ids if event.stop_token_id is None else event.token_ids[:-1]
                if text := detokenizer.add(token_ids):
                    yield text
        if text := detokenizer.finish():
            yield text

    async def close(self) -> None:
        """End the engine."""
        await self._engine.close()
        self._model.chat_template.close()


async def open_package(options: argparse.Namespace) -> PackageBackend:
    """Start an engine for a package; raises PackageError if it cannot be opened."""
    from pagedc.runtime.async_engine import AsyncEngine
    from pagedc.runtime.package import Package
    from pagedc.runtime.serve import engine_options

    package = Package.open(options.target)
    own = replace(engine_options(options), memory=options.memory, num_threads=options.threads)
    engine = AsyncEngine(options.target, own)
    engine.spawn()
    from pagedc.runtime.server.served_model import open_served_model

    try:
        model = open_served_model(package, (), options.max_model_len)
        if model.chat_template is None:
            raise UsageError(f"{options.target} has no chat template; serve it and use /v1/completions")
        ready = await engine.start()
    except BaseException:
        await engine.close()
        raise
    model.max_model_len = min(model.max_model_len, ready.max_model_len)
    return PackageBackend(engine, model, _sampling(options))


class ServerBackend:
    """A server that speaks OpenAI's API."""

    def __init__(self, url: str, model: str, key: str | None, sampling: dict[str, Any]) -> None:
        self.name = f"{model} at {url}"
        self._url = url
        self._model = model
        self._key = key
        self._sampling = sampling

    async def answer(self, messages: list[dict[str, Any]]) -> AsyncIterator[str]:
        """Pieces of text as the server sends them."""
        body = {"model": self._model, "messages": messages, "stream": True, **self._sampling}
        queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        fetching = asyncio.ensure_future(
            fetch(self._url + "/chat/completions", self._key, body=body, on_chunk=queue.put_nowait)
        )
        fetching.add_done_callback(lambda _: queue.put_nowait(None))
        try:
            buffer = b""
            while (chunk := await queue.get()) is not None:
                *lines, buffer = (buffer + chunk).split(b"\n")
                for line in lines:
                    if line.startswith(b"data: ") and line != b"data: [DONE]":
                        event = json.loads(line[6:])
                        if "error" in event:
                            raise PagedcError(event["error"]["message"])
                        for choice in event["choices"]:
                            if text := choice["delta"].get("content"):
                                yield text
            await fetching
        finally:
            fetching.cancel()

    async def close(self) -> None:
        """Nothing was started."""


async def open_server(options: argparse.Namespace) -> ServerBackend:
    """Ask a server for its models; raises UsageError if there is none."""
    url = options.target.rstrip("/")
    if not url.endswith("/v1"):
        url += "/v1"
    key = None
    if options.api_key_file:
        try:
            key = options.api_key_file.read_text().splitlines()[0].strip()
        except (OSError, IndexError):
            raise UsageError(f"--api-key-file {options.api_key_file} cannot be read") from None
    model = options.model
    if model is None:
        model = json.loads(await fetch(url + "/models", key))["data"][0]["id"]
    return ServerBackend(url, model, key, _sampling(options))


async def fetch(url: str, key: str | None, *, body: Any = None, on_chunk: OnChunk | None = None) -> bytes:
    """One HTTP exchange; `on_chunk` gets pieces as they come. Raises PagedcError with what the server said.

    The exchange runs in a thread; cancelling this hangs up.
    """
    try:
        parts = urlsplit(url)
        make = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        connection = make(parts.hostname or "", parts.port, timeout=CONNECT_TIMEOUT)
    except (ValueError, http.client.InvalidURL) as error:
        raise UsageError(f"{url} is no address of a server: {error}") from None
    loop = asyncio.get_running_loop()
    opened: list[socket.socket] = []  # the connection forgets it when the server says that it will close

    def receive(chunk: bytes) -> None:
        if on_chunk is not None:
            loop.call_soon_threadsafe(on_chunk, chunk)

    try:
        return await asyncio.to_thread(_exchange, connection, opened, parts.path, key, body, receive)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UsageError(f"{url} cannot be reached: {getattr(error, 'strerror', None) or error}") from None
    finally:
        for sock in opened:
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


def _exchange(
    connection: http.client.HTTPConnection,
    opened: list[socket.socket],
    path: str,
    key: str | None,
    body: Any,
    receive: OnChunk,
) -> bytes:
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    with closing(connection):
        data = None if body is None else json.dumps(body).encode()
        connection.request("GET" if data is None else "POST", path, data, headers)
        opened.append(connection.sock)
        connection.sock.settimeout(ANSWER_TIMEOUT)
        response = connection.getresponse()
        pieces: list[bytes] = []
        while piece := response.read1(65536):
            pieces.append(piece)
            receive(piece)
    answer = b"".join(pieces)
    if response.status != http.HTTPStatus.OK:
        raise PagedcError(_error_message(answer) or f"the server answered with status {response.status}")
    return answer


def _error_message(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return ""


def _sampling(options: argparse.Namespace) -> dict[str, Any]:
    values = {"temperature": options.temperature, "max_tokens": options.max_tokens, "seed": options.seed}
    return {name: value for name, value in values.items() if value is not None}
