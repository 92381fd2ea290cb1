"""Text to token ids and back, on the package's own tokenizer.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pagedc.runtime.chat_template import ChatTemplate


class Tokenizer:
    """A thread-safe wrapper of `tokenizers.Tokenizer`; encoding releases the GIL.

    >>> tokenizer = Tokenizer(package.tokenizer_path)
    >>> tokenizer.encode("Hello")
    """

    vocab_size: int  # ids are below this
    special_tokens: dict[str, int]  # control tokens: "<|im_end|>" → 2

    def __init__(self, directory: Path) -> None:
        raise NotImplementedError

    def encode(self, text: str, *, add_special_tokens: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of a text.

        `add_special_tokens`: as the tokenizer's post-processor does (BOS). `parse_special=False`: the text of a control
        token within `text` is ordinary text.
        """
        raise NotImplementedError

    def encode_chat(
        self,
        template: ChatTemplate,
        messages: Sequence[dict[str, Any]],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        **variables: Any,
    ) -> list[int]:
        """Token ids of a conversation, as HF's apply_chat_template gives them.

        A control token's text inside a message or a tool stays text: only the template itself writes control tokens.
        Blocks (the template is rendered in another process): from an event loop call it in a thread. Raises
        RequestError when the template refuses the messages or exceeds its limits.
        """
        raise NotImplementedError

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of a whole sequence; for a growing one see detokenizer.Detokenizer."""
        raise NotImplementedError

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for within a text: for logprobs' `bytes`; may be part of a character."""
        raise NotImplementedError

    def token_text(self, token_id: int) -> str:
        """`token_bytes` as text, for logprobs' `token`; bytes that are no UTF-8 become U+FFFD."""
        raise NotImplementedError
