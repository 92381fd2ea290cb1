"""The engine for asyncio programs, in a process of its own that is restarted when it dies.

>>> async with AsyncLLM("smollm2-135m.pagedc") as llm:
...     async for delta in llm.stream_chat([{"role": "user", "content": "Hello!"}]):
...         print(delta.text, end="", flush=True)
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, cast

from pagedc.runtime.async_engine import AsyncEngine
from pagedc.runtime.config import EngineOptions
from pagedc.runtime.messages import TokenEvent
from pagedc.runtime.outputs import OutputCollector, OutputDelta, RequestOutput
from pagedc.runtime.package import Package
from pagedc.runtime.pooling import Pooling, check_dimensions, choose_pooling, unit_embedding
from pagedc.runtime.prompting import Prompt, Prompter, checked_params
from pagedc.runtime.sampling_params import SamplingParams


class AsyncLLM:
    """Requests run together, as many as there are tasks. Belongs to one event loop."""

    def __init__(self, package: str | Path, **options: Any) -> None:
        """`options` are those of EngineOptions; the engine's process starts at once, `start` waits for it."""
        self.package = Package.open(package)
        self.engine = AsyncEngine(self.package.path, EngineOptions(**options))
        self.engine.spawn()
        self._prompter = Prompter(self.package.tokenizer_path)
        self._num_requests = 0

    async def start(self) -> None:
        """Wait until the engine takes requests; raises PackageError, UsageError or EngineError."""
        await self.engine.start()

    async def generate(self, prompt: Prompt, params: SamplingParams | None = None) -> RequestOutput:
        """Continue a prompt, a text or token ids."""
        return await self._finish(await asyncio.to_thread(self._prompter.encode, prompt), params)

    async def chat(
        self,
        messages: Sequence[dict[str, Any]],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        **variables: Any,  # of the chat template
    ) -> RequestOutput:
        """The model's answer to a conversation."""
        return await self._finish(await self._encode_chat(messages, tools, variables), params)

    async def stream(
        self, prompt: Prompt, params: SamplingParams | None = None
    ) -> AsyncGenerator[OutputDelta, None]:
        """Continue a prompt and yield the text as it grows; closing the generator aborts."""
        token_ids = await asyncio.to_thread(self._prompter.encode, prompt)
        async with contextlib.aclosing(self._run(self._collector(token_ids, params), params)) as deltas:
            async for delta in deltas:
                yield delta

    async def stream_chat(
        self,
        messages: Sequence[dict[str, Any]],
        params: SamplingParams | None = None,
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        **variables: Any,
    ) -> AsyncGenerator[OutputDelta, None]:
        """Answer a conversation and yield the text as it grows; closing the generator aborts."""
        token_ids = await self._encode_chat(messages, tools, variables)
        async with contextlib.aclosing(self._run(self._collector(token_ids, params), params)) as deltas:
            async for delta in deltas:
                yield delta

    async def embed(
        self, text: Prompt, *, pooling: Pooling = "", dimensions: int | None = None
    ) -> list[float]:
        """The embedding of a text or token ids, of unit length: see `LLM.embed`."""
        model = self.package.manifest.model
        check_dimensions(model.hidden_size, model.embedding, dimensions)
        collector = self._collector(await asyncio.to_thread(self._prompter.encode, text), None)
        await self._collect(collector, None, choose_pooling(pooling, model.embedding))
        return unit_embedding(collector.embedding, dimensions).tolist()

    async def close(self) -> None:
        """End the engine's process; safe to call twice."""
        await self.engine.close()
        self._prompter.close()

    async def __aenter__(self) -> "AsyncLLM":
        try:
            await self.start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def _encode_chat(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None,
        variables: dict[str, Any],
    ) -> list[int]:
        return await asyncio.to_thread(lambda: self._prompter.encode_chat(messages, tools=tools, **variables))

    def _collector(self, token_ids: list[int], params: SamplingParams | None) -> OutputCollector:
        self._num_requests += 1
        return OutputCollector(
            str(self._num_requests), self._prompter.tokenizer, token_ids, checked_params(params)
        )

    async def _finish(self, token_ids: list[int], params: SamplingParams | None) -> RequestOutput:
        collector = self._collector(token_ids, params)
        await self._collect(collector, params)
        return collector.output

    async def _collect(
        self, collector: OutputCollector, params: SamplingParams | None, pooling: Pooling = ""
    ) -> None:
        async with contextlib.aclosing(self._run(collector, params, pooling)) as deltas:
            async for _ in deltas:
                pass

    async def _run(
        self, collector: OutputCollector, params: SamplingParams | None, pooling: Pooling = ""
    ) -> AsyncGenerator[OutputDelta, None]:
        events = self.engine.generate(
            collector.request_id,
            collector.output.prompt_token_ids,
            checked_params(params),
            pooling=pooling,
        )
        async with contextlib.aclosing(cast(AsyncGenerator[TokenEvent, None], events)) as source:
            async for event in source:
                delta = collector.add(event)
                if delta is None:
                    continue
                if delta.finish_reason is not None and event.finish_reason is None:
                    self.engine.abort(event.request_id, event.index)
                yield delta
