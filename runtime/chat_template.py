"""Render a package's chat template with the semantics of Hugging Face, and with limits.

A template is a program of whoever made the package. It runs in Jinja2's immutable sandbox, in a process of its own with a
memory limit; one that has not answered in time is killed.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any


class ChatTemplate:
    """The chat template of a package; the process starts with the first rendering, or with `warm_up`.

    >>> template = ChatTemplate.open(package.tokenizer_path)   # None if the package has no chat template
    >>> template.render([{"role": "user", "content": "Hello"}])
    """

    @classmethod
    def open(cls, directory: Path, *, time_limit: float = 2.0, max_output: int = 4 << 20) -> "ChatTemplate | None":
        """Of a package's tokenizer directory; `time_limit` in seconds, `max_output` in characters."""
        raise NotImplementedError

    def warm_up(self) -> None:
        """Start the process without waiting for it."""
        raise NotImplementedError

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> str:
        """The prompt as text. Blocks and is thread-safe.

        Raises RequestError: raise_exception of the template, an error in it, or a limit exceeded. Most callers want
        Tokenizer.encode_chat, which also keeps messages from forging control tokens.
        """
        raise NotImplementedError

    def close(self) -> None:
        """End the process; safe to call twice."""
        raise NotImplementedError
