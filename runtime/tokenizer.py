"""Text to token ids and back, on the package's own tokenizer.json."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import tokenizers

from pagedc.runtime.chat_template import ChatTemplate
from pagedc.runtime.control_tokens import ControlTokens
from pagedc.runtime.errors import PackageError, RequestError
from pagedc.runtime.heap import trim_heap
from pagedc.runtime.token_bytes import DecoderKind, byte_level_token, decoder_kind, sentencepiece_token


class _Model(msgspec.Struct):
    unk_token: str | None = None


class _File(msgspec.Struct):
    """What is read of tokenizer.json beside what `tokenizers` makes of it."""

    decoder: dict[str, Any] | None = None
    model: _Model | None = None


class Tokenizer:
    """A thread-safe wrapper of `tokenizers.Tokenizer`; encoding releases the GIL.

    >>> tokenizer = Tokenizer(package.tokenizer_path)
    >>> tokenizer.encode("Hello")
    """

    vocab_size: int  # ids are below this
    special_tokens: dict[str, int]  # control tokens: "<|im_end|>" → 2
    decoder_kind: DecoderKind

    def __init__(self, directory: Path) -> None:
        """Raises PackageError if there is no tokenizer.json that can be read."""
        path = directory / "tokenizer.json"
        try:
            data = path.read_bytes()
            file = msgspec.json.decode(data, type=_File)
            self._tokenizer = tokenizers.Tokenizer.from_buffer(data)
        except FileNotFoundError:
            raise PackageError(
                f"{path}: this package has no tokenizer, as its checkpoint had none: put a tokenizer.json "
                "beside the weights and compile again"
            ) from None
        except OSError as error:
            raise PackageError(
                f"{path}: cannot be read: {error.strerror}; compile the package again"
            ) from None
        except Exception as error:  # `tokenizers` raises Exception itself
            reason = " ".join(str(error).split())
            raise PackageError(f"{path}: no tokenizer: {reason}; compile the package again") from None
        self._tokenizer.no_truncation()  # a tokenizer.json may carry the settings of its training
        self._tokenizer.no_padding()
        added = self._tokenizer.get_added_tokens_decoder()
        self._control = ControlTokens(self._tokenizer, file.model.unk_token if file.model else None)
        self.special_tokens = self._control.ids
        self.special_ids = frozenset(self.special_tokens.values())
        self.vocab_size = max(self._tokenizer.get_vocab_size(), max(added, default=-1) + 1)
        self.decoder_kind = decoder_kind(file.decoder)
        self._bytes: dict[int, bytes] = {}
        del data, file
        trim_heap()  # reading 49,152 tokens leaves 17 MB of it free, in pages of its own; 1.3 ms

    def encode(self, text: str, *, add_special_tokens: bool = True, parse_special: bool = True) -> list[int]:
        """Token ids of a text; raises RequestError for a string that is no Unicode text.

        `add_special_tokens`: as the tokenizer's post-processor does (BOS). `parse_special=False`: the text of
        a control token within `text` is ordinary text.
        """
        try:
            if not parse_special:
                return self._control.encode_as_text(text, add_special_tokens=add_special_tokens)
            return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        except TypeError:
            raise RequestError("the text holds half of a surrogate pair, which is no character") from None

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

        A control token's text inside a message or a tool stays text: only the template itself writes control
        tokens (see control_tokens.py). Blocks (the template is rendered in another process): from an event
        loop call it in a thread. Raises RequestError when the template refuses the messages or exceeds its
        limits.
        """
        given = {"messages": list(messages), "tools": tools and list(tools), **variables}
        marked = self._control.mark(given)
        text = template.render(**marked, add_generation_prompt=add_generation_prompt)
        return (
            self.encode(text, add_special_tokens=False)
            if marked == given
            else self._control.encode_marked(text)
        )

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of a whole sequence; for a growing one see detokenizer.Detokenizer."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=skip_special_tokens)

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token stands for within a text: for logprobs' `bytes`; may be part of a character.

        An id that no token has stands for nothing.
        """
        found = self._bytes.get(token_id)
        if found is None:
            found = self._bytes[token_id] = self._find_bytes(token_id)
        return found

    def token_text(self, token_id: int) -> str:
        """`token_bytes` as text, for logprobs' `token`; bytes that are no UTF-8 become U+FFFD."""
        return self.token_bytes(token_id).decode(errors="replace")

    def _find_bytes(self, token_id: int) -> bytes:
        token = self._tokenizer.id_to_token(token_id) if token_id >= 0 else None
        if token is None:
            return b""
        if self.decoder_kind == "bytes":
            return byte_level_token(token)
        if self.decoder_kind == "sentencepiece":
            return sentencepiece_token(token)
        return self.decode([token_id], skip_special_tokens=False).encode()
