"""The answers of /v1/responses: output items, whole or as OpenAI's events."""

from typing import Any

import msgspec

from pagedc.runtime.server.failures import Failure
from pagedc.runtime.server.item_answer import Change, Item, ItemAnswer
from pagedc.runtime.server.responses_protocol import ResponsesRequest
from pagedc.runtime.server.sse import sse_event

# Of an item's own part, by kind: the names of its events and the key of its text.
_NAMES = {
    "text": ("response.output_text", "text"),
    "reasoning": ("response.reasoning_text", "text"),
    "call": ("response.function_call_arguments", "arguments"),
}


class ResponsesAnswer(ItemAnswer):
    """A response; `original` is the request as it came."""

    original: ResponsesRequest

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._num_events = 0

    def response(self) -> dict[str, Any]:
        """The whole response."""
        is_cut = self.generation.choices[0].finish_reason == "length"
        return self._object("incomplete" if is_cut else "completed")

    def beginning(self) -> list[dict[str, Any]]:
        """response.created and response.in_progress."""
        return [
            self._event(name, response=self._object("in_progress"))
            for name in ("response.created", "response.in_progress")
        ]

    def events_of(self, change: Change) -> list[dict[str, Any]]:
        """The item's events, and those of its part."""
        item = change.item
        name, key = _NAMES[item.kind]
        place: dict[str, Any] = {"item_id": _item_id(item), "output_index": item.index}
        if item.kind != "call":
            place["content_index"] = 0
        if change.what == "grow":
            extra: dict[str, Any] = {"logprobs": []} if item.kind == "text" else {}
            return [self._event(f"{name}.delta", **place, delta=change.text, **extra)]
        if change.what == "open":
            events = [
                self._event(
                    "response.output_item.added", output_index=item.index, item=_output(item, is_empty=True)
                )
            ]
            if item.kind != "call":
                events.append(self._event("response.content_part.added", **place, part=_part(item, "")))
            return events
        done: dict[str, Any] = {key: item.text}
        if item.kind == "call":
            done["name"] = item.name
        elif item.kind == "text":
            done["logprobs"] = []
        events = [self._event(f"{name}.done", **place, **done)]
        if item.kind != "call":
            events.append(self._event("response.content_part.done", **place, part=_part(item, item.text)))
        events.append(self._event("response.output_item.done", output_index=item.index, item=_output(item)))
        return events

    def ending(self) -> list[dict[str, Any]]:
        """response.completed, or response.incomplete."""
        response = self.response()
        return [self._event(f"response.{response['status']}", response=response)]

    def stream_error(self, failure: Failure) -> bytes:
        """The event that ends a broken stream."""
        error = failure.body.error
        event = self._event("error", code=error.code, message=error.message, param=error.param)
        return b"event: error\n" + sse_event(event)

    def _event(self, type_: str, **fields: Any) -> dict[str, Any]:
        event = {"type": type_, "sequence_number": self._num_events, **fields}
        self._num_events += 1
        return event

    def _object(self, status: str) -> dict[str, Any]:
        request, params = self.original, self.generation.params
        reasoning = request.reasoning.effort if request.reasoning else None
        return {
            "id": self._head["id"],
            "object": "response",
            "created_at": self._head["created"],
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "instructions": request.instructions,
            "max_output_tokens": request.max_output_tokens,
            "model": request.model,
            "output": [] if status == "in_progress" else [_output(item) for item in self.items],
            "parallel_tool_calls": request.parallel_tool_calls is not False,
            "previous_response_id": None,
            "reasoning": {"effort": reasoning, "summary": None},
            "service_tier": "default",
            "store": False,
            "temperature": params.temperature,
            "text": {"format": _format(request)},
            "tool_choice": msgspec.to_builtins(request.tool_choice) or "auto",
            "tools": msgspec.to_builtins(request.tools) or [],
            "top_logprobs": 0,
            "top_p": params.top_p,
            "truncation": "disabled",
            "usage": None if status == "in_progress" else self._usage(),
            "user": request.user,
            "metadata": request.metadata or {},
        }

    def _usage(self) -> dict[str, Any]:
        usage = self.generation.usage
        return {
            "input_tokens": usage.num_prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.num_cached_tokens},
            "output_tokens": usage.num_completion_tokens,
            "output_tokens_details": {"reasoning_tokens": self.num_reasoning_tokens},
            "total_tokens": usage.num_prompt_tokens + usage.num_completion_tokens,
        }


def _format(request: ResponsesRequest) -> dict[str, Any]:
    form = request.text.format if request.text else None
    if form is None or form.type != "json_schema":
        return {"type": form.type if form else "text"}
    return {
        "type": "json_schema",
        "name": form.name,
        "description": form.description,
        "schema": form.schema,
        "strict": form.strict,
    }


def _item_id(item: Item) -> str:
    return {"text": "msg_", "reasoning": "rs_", "call": "fc_"}[item.kind] + item.id


def _part(item: Item, text: str) -> dict[str, Any]:
    if item.kind == "reasoning":
        return {"type": "reasoning_text", "text": text}
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _output(item: Item, *, is_empty: bool = False) -> dict[str, Any]:
    status = "incomplete" if item.is_broken else "completed" if item.is_closed else "in_progress"
    head = {"id": _item_id(item), "status": status}
    if item.kind == "call":
        call = {"call_id": f"call_{item.id}", "name": item.name, "arguments": "" if is_empty else item.text}
        return {"type": "function_call", **head, **call}
    content = [] if is_empty else [_part(item, item.text)]
    if item.kind == "reasoning":
        return {"type": "reasoning", **head, "summary": [], "content": content}
    return {"type": "message", **head, "role": "assistant", "content": content}
