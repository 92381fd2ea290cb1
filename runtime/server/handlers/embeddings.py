"""POST /v1/embeddings: the hidden states before the head, pooled and of unit length."""

import asyncio
import base64
import secrets
from array import array
from collections.abc import AsyncGenerator
from contextlib import aclosing
from time import perf_counter
from typing import Any, cast

from pagedc.runtime.errors import RequestError
from pagedc.runtime.messages import TokenEvent
from pagedc.runtime.pooling import Pooling, check_dimensions, unit_embedding
from pagedc.runtime.sampling_params import SamplingParams
from pagedc.runtime.server.handlers.base import BaseHandler
from pagedc.runtime.server.hosted_model import HostedModel
from pagedc.runtime.server.prompts import Prompt, completion_prompts
from pagedc.runtime.server.protocol import EmbeddingsRequest
from pagedc.runtime.server.refusals import unsupported

_NO_SAMPLING = SamplingParams(max_tokens=1)


class EmbeddingsHandler(BaseHandler):
    """One embedding an input."""

    allowed_methods = ("POST",)

    async def post(self) -> None:
        """Answer, unless the client leaves before."""
        await self.while_connected(self._serve())

    async def _serve(self) -> None:
        arrived = perf_counter()
        request = self.json_body(EmbeddingsRequest)
        hosted = self.state.find(request.model)
        model = hosted.model
        if model.hidden_size == 0:
            raise unsupported("model", "its package gives no hidden states")
        check_dimensions(model.hidden_size, model.embedding, request.dimensions)
        is_one = isinstance(request.input, str) or (request.input and isinstance(request.input[0], int))
        with self.state.admit(hosted, 1 if is_one else max(len(request.input), 1)):
            await hosted.wait_started()
            prompts = await self._prompts(request, hosted)
            request_id = "embd-" + secrets.token_hex(16)
            pooling = request.pooling or model.embedding.pooling
            embeddings = await asyncio.gather(
                *(
                    _embed(hosted, f"{request_id}-{i}", prompt, pooling, request.dimensions, arrived)
                    for i, prompt in enumerate(prompts)
                )
            )
        num_tokens = sum(len(prompt.token_ids) for prompt in prompts)
        is_base64 = request.encoding_format == "base64"
        self.send_json(
            {
                "object": "list",
                "model": request.model,
                "data": [
                    {"object": "embedding", "index": i, "embedding": _encode(embedding, is_base64)}
                    for i, embedding in enumerate(embeddings)
                ],
                "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
            }
        )

    async def _prompts(self, request: EmbeddingsRequest, hosted: HostedModel) -> list[Prompt]:
        try:
            return await completion_prompts(
                request.input, hosted.model, self.state.limits, add_special_tokens=True
            )
        except RequestError as error:
            message = str(error).replace("'prompt'", "'input'")
            raise RequestError(message, param="input", code=error.code) from None


async def _embed(
    hosted: HostedModel,
    request_id: str,
    prompt: Prompt,
    pooling: Pooling,
    dimensions: int | None,
    arrived: float,
) -> "array[float]":
    metrics = hosted.metrics
    metrics.request_prompt_tokens.observe(len(prompt.token_ids))
    generator = cast(
        AsyncGenerator[TokenEvent, None],
        hosted.engine.generate(request_id, prompt.token_ids, _NO_SAMPLING, pooling=pooling),
    )
    data = b""
    async with aclosing(generator) as events:
        async for event in events:
            data = event.embedding
    metrics.e2e_request_latency.observe(perf_counter() - arrived)
    metrics.finished["stop"] += 1
    return unit_embedding(data, dimensions)


def _encode(embedding: "array[float]", is_base64: bool) -> Any:
    return base64.b64encode(embedding).decode() if is_base64 else embedding.tolist()
