"""/openapi.json: an OpenAPI 3.1 document made of the types that validate the requests.

What the types do not say (ranges, fields that exclude each other) the server checks all the same, and answers
with the one error body.
"""

from typing import Any

import msgspec

from pagedc import __version__
from pagedc.runtime.server.failures import ErrorBody
from pagedc.runtime.server.messages_protocol import CountTokensRequest, MessagesRequest
from pagedc.runtime.server.protocol import (
    ChatCompletionRequest,
    CompletionRequest,
    DetokenizeRequest,
    EmbeddingsRequest,
    LoadRequest,
    TokenizeRequest,
)
from pagedc.runtime.server.responses_protocol import ResponsesRequest

# path, what it does, type of the body
_POSTS: tuple[tuple[str, str, type], ...] = (
    ("/v1/chat/completions", "Answer a conversation", ChatCompletionRequest),
    ("/v1/completions", "Continue texts", CompletionRequest),
    ("/v1/embeddings", "Embeddings of texts", EmbeddingsRequest),
    ("/v1/responses", "Answer a conversation, as output items", ResponsesRequest),
    ("/v1/messages", "Answer a conversation, in Anthropic's form", MessagesRequest),
    ("/v1/messages/count_tokens", "Count a conversation's tokens", CountTokensRequest),
    ("/tokenize", "Token ids of a text or a conversation", TokenizeRequest),
    ("/detokenize", "The text of token ids", DetokenizeRequest),
)
_STREAMING = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages")
# path, what it gives, media type, whether it needs a key
_GETS: tuple[tuple[str, str, str, bool], ...] = (
    ("/v1/models", "The models", "application/json", True),
    ("/v1/models/{model}", "One model", "application/json", True),
    ("/health", "Whether the process lives", "application/json", False),
    ("/ready", "Whether a request would be served now", "application/json", False),
    ("/metrics", "Figures for Prometheus", "text/plain", True),
    ("/version", "The version of pagedc", "application/json", True),
    ("/openapi.json", "This document", "application/json", True),
)
_MODEL_PARAMETER = {
    "name": "model",
    "in": "path",
    "required": True,
    "schema": {"type": "string", "minLength": 1},
}
_REF = "#/components/schemas/{name}"


def document(*, has_keys: bool, has_admin: bool) -> dict[str, Any]:
    """The document of a server with or without keys and admin's routes."""
    types: list[type] = [ErrorBody, *(body for _, _, body in _POSTS)]
    if has_admin:
        types.append(LoadRequest)
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    references = dict(zip(types, schemas, strict=True))
    paths: dict[str, Any] = {}
    for path, summary, body in _POSTS:
        operation = _operation(summary, references[body])
        if path in _STREAMING:
            operation["responses"]["200"]["content"]["text/event-stream"] = {"schema": {}}
        paths[path] = {"post": operation}
    for path, summary, media_type, needs_key in _GETS:
        operation = _operation(summary, None, media_type)
        if not needs_key:
            operation["security"] = []
        if "{model}" in path:
            operation["parameters"] = [_MODEL_PARAMETER]
        paths[path] = {"get": operation}
    if has_admin:
        paths |= _admin_paths(references[LoadRequest])
    schemes = {"key": {"type": "http", "scheme": "bearer"}, "admin": {"type": "http", "scheme": "bearer"}}
    used = {"key": has_keys, "admin": has_admin}
    return {
        "openapi": "3.1.0",
        "info": {"title": "pagedc", "version": __version__},
        "paths": paths,
        "security": [{"key": []}] if has_keys else [],
        "components": {
            "schemas": components,
            "securitySchemes": {name: scheme for name, scheme in schemes.items() if used[name]},
        },
    }


def _admin_paths(load: dict[str, Any]) -> dict[str, Any]:
    operations = {
        "list": _operation("Every model and how it stands", None),
        "load": _operation("Load a package", load, success="201"),
        "unload": {**_operation("Unload a model", None), "parameters": [_MODEL_PARAMETER]},
    }
    for operation in operations.values():
        operation["security"] = [{"admin": []}]
    return {
        "/admin/models": {"get": operations["list"], "post": operations["load"]},
        "/admin/models/{model}": {"delete": operations["unload"]},
    }


def _operation(
    summary: str, body: dict[str, Any] | None, media_type: str = "application/json", success: str = "200"
) -> dict[str, Any]:
    schema = {"type": "object"} if media_type == "application/json" else {"type": "string"}
    error = {"content": {"application/json": {"schema": {"$ref": _REF.format(name="ErrorBody")}}}}
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {
            success: {"description": summary, "content": {media_type: {"schema": schema}}},
            "4XX": {"description": "The request is refused", **error},
            "5XX": {"description": "The server fails, starts or drains"},
        },
    }
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    return operation
