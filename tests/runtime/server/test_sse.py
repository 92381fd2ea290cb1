"""Chunks around one text."""

import json
from typing import Any

import pytest

from pagedc.runtime.server.sse import ChunkTemplate, sse_event


@pytest.mark.parametrize(
    "text", ["", "a", '"\\\n\r\t', "\x00\u2028é", "\U0001f600", "data: [DONE]\n\n", ChunkTemplate.HOLE]
)
def test_a_filled_template_is_the_chunk_with_that_text(text: str) -> None:
    def chunk(content: str) -> dict[str, Any]:
        return {"id": "x", "choices": [{"index": 0, "delta": {"content": content}}], "usage": None}

    event = ChunkTemplate(chunk(ChunkTemplate.HOLE)).fill(text)
    assert event == sse_event(chunk(text))
    assert event.count(b"\n") == 2
    assert json.loads(event.removeprefix(b"data: ")) == chunk(text)


def test_a_template_needs_a_hole() -> None:
    with pytest.raises(ValueError, match="no hole"):
        ChunkTemplate({"text": "x"})
