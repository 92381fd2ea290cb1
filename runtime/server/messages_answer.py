"""The answers of /v1/messages, in Anthropic's form."""

from typing import Any

import msgspec

from pagedc.runtime.server.item_answer import Change, Item, ItemAnswer

_DELTAS = {
    "text": ("text_delta", "text"),
    "reasoning": ("thinking_delta", "thinking"),
    "call": ("input_json_delta", "partial_json"),
}


class MessagesAnswer(ItemAnswer):
    """A message of content blocks."""

    def response(self) -> dict[str, Any]:
        """The whole message."""
        content = [_block(item, item.text) for item in self.items]
        return self._message(content) | self._end() | {"usage": self._usage()}

    def beginning(self) -> list[dict[str, Any]]:
        """message_start."""
        message = self._message([]) | {"stop_reason": None, "stop_sequence": None, "usage": self._usage()}
        return [{"type": "message_start", "message": message}]

    def events_of(self, change: Change) -> list[dict[str, Any]]:
        """content_block_start, _delta and _stop."""
        item = change.item
        if change.what == "open":
            return [{"type": "content_block_start", "index": item.index, "content_block": _block(item, "")}]
        if change.what == "close":
            return [{"type": "content_block_stop", "index": item.index}]
        kind, name = _DELTAS[item.kind]
        delta = {"type": kind, name: change.text}
        return [{"type": "content_block_delta", "index": item.index, "delta": delta}]

    def ending(self) -> list[dict[str, Any]]:
        """message_delta and message_stop."""
        return [
            {"type": "message_delta", "delta": self._end(), "usage": self._usage()},
            {"type": "message_stop"},
        ]

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": self._head["id"],
            "type": "message",
            "role": "assistant",
            "model": self.request.model,
            "content": content,
        }

    def _end(self) -> dict[str, Any]:
        choice = self.generation.choices[0]
        if choice.finish_reason == "length":
            reason = "max_tokens"
        elif self.has_calls:
            reason = "tool_use"
        else:
            reason = "stop_sequence" if isinstance(choice.stop, str) else "end_turn"
        sequence = choice.stop if reason == "stop_sequence" else None
        return {"stop_reason": reason, "stop_sequence": sequence}

    def _usage(self) -> dict[str, Any]:
        usage = self.generation.usage
        return {
            "input_tokens": usage.num_prompt_tokens - usage.num_cached_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": usage.num_cached_tokens,
            "output_tokens": usage.num_completion_tokens,
        }


def _block(item: Item, text: str) -> dict[str, Any]:
    if item.kind == "text":
        return {"type": "text", "text": text}
    if item.kind == "reasoning":
        return {"type": "thinking", "thinking": text, "signature": ""}
    arguments = msgspec.Raw(text.encode()) if text else {}  # an object, as the model wrote it
    return {"type": "tool_use", "id": f"toolu_{item.id}", "name": item.name, "input": arguments}
