"""Text of a growing sequence: whole characters only, held back while a stop string may be forming, in linear
time.
"""

import codecs
from collections.abc import Iterable, Sequence

from pagedc.runtime.stop_strings import StopStrings
from pagedc.runtime.tokenizer import Tokenizer

# Tokens that a decoder which looks at its neighbours is shown before the new ones, and for how many it may
# keep silent: no character has more bytes than that.
CONTEXT_TOKENS = 6
MAX_SILENT_TOKENS = 8


class Detokenizer:
    """One sequence's text, as it continues the prompt's.

    >>> detokenizer = Detokenizer(tokenizer, stop=["\\n\\n"])
    >>> text = detokenizer.add(event.token_ids)     # what may be shown now, perhaps ""
    >>> if detokenizer.stop_string is not None: ...  # matched: the text ends before it; nothing comes from
    now on
    >>> text += detokenizer.finish()                # what was held back
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        include_stop: bool = False,  # whether the matched stop string stays in the text
        skip_special_tokens: bool = True,
        kept_ids: frozenset[int] = frozenset(),  # special tokens that are shown nevertheless
        prompt_token_ids: Sequence[int] = (),  # context of the first token, for tokenizers that need one
    ) -> None:
        self._skipped = tokenizer.special_ids - kept_ids if skip_special_tokens else frozenset()
        self._decoder: _ByteDecoder | _WindowDecoder
        if tokenizer.decoder_kind == "other":
            context = [each for each in prompt_token_ids[-CONTEXT_TOKENS:] if each not in self._skipped]
            self._decoder = _WindowDecoder(tokenizer, context)
        else:
            self._decoder = _ByteDecoder(tokenizer)
        self._stop = StopStrings(stop, include=include_stop) if stop else None

    @property
    def stop_string(self) -> str | None:
        """The one that matched."""
        return self._stop.matched if self._stop else None

    def add(self, token_ids: Iterable[int]) -> str:
        """Text that these tokens made final."""
        text = "".join([self._decoder.add(each) for each in token_ids if each not in self._skipped])
        return self._stop.feed(text) if self._stop else text

    def finish(self) -> str:
        """The rest, when no token will come; an unfinished character becomes U+FFFD."""
        text = self._decoder.finish()
        return self._stop.feed(text) + self._stop.finish() if self._stop else text


class _ByteDecoder:
    """For tokenizers whose tokens are bytes: an incremental UTF-8 decoder."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token_id: int) -> str:
        return self._utf8.decode(self._token_bytes(token_id))

    def finish(self) -> str:
        return self._utf8.decode(b"", final=True)


class _WindowDecoder:
    """For any other tokenizer: what a bounded window decodes to, less what it did without its newest
    tokens.
    """

    def __init__(self, tokenizer: Tokenizer, context: Sequence[int]) -> None:
        self._decode = tokenizer.decode
        self._context = list(context)
        self._silent: list[int] = []  # tokens not shown yet

    def add(self, token_id: int) -> str:
        self._silent.append(token_id)
        text = self._news()
        if (not text or text.endswith("\ufffd")) and len(self._silent) < MAX_SILENT_TOKENS:
            return ""  # perhaps the beginning of a character
        return self._show(text)

    def finish(self) -> str:
        return self._show(self._news())

    def _news(self) -> str:
        before = self._decode(self._context, skip_special_tokens=False)
        return self._decode([*self._context, *self._silent], skip_special_tokens=False)[len(before) :]

    def _show(self, text: str) -> str:
        self._context = [*self._context, *self._silent][-CONTEXT_TOKENS:]
        self._silent = []
        return text
