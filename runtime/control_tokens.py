"""Keep a message from forging control tokens.

A chat template writes control tokens such as "<|im_end|>" as text, and the tokenizer finds them there. The
same text inside a message must stay text, or whoever writes the message can end his turn and write the
system's. So the strings that come from outside are marked before the template is rendered:

    a control token's text      between two private characters
    an end that begins one      with a third behind it: "<|im_" of one message part cannot join "end|>" of the
    next

The template still sees the words themselves, so what it does with them (splitting off "</think>", say) goes
on to work. In the rendered text whatever is marked is ordinary text, and the control tokens without marks are
the template's.

Ordinary text then takes a second tokenizer that recognises no control token, but an alias of each which no
text can contain: one pass over the whole text, so that merges and added spaces are those of an unmarked text.
A conversation without any of this, nearly every one, is rendered unmarked and encoded as Hugging Face does.
What it costs: the three private characters (U+10FFF0 to U+10FFF2) are taken out of messages, and the second
tokenizer, made when it is first needed, takes as much memory as the first.
"""

import re
import threading
from typing import Any

import tokenizers

from pagedc.runtime.errors import RequestError

_START, _END, _BREAK = "\U0010fff0", "\U0010fff1", "\U0010fff2"
_MARKS = re.compile(f"[{_START}{_END}{_BREAK}]")


class ControlTokens:
    """The control tokens of one tokenizer; thread-safe."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, unk_token: str | None) -> None:
        added = tokenizer.get_added_tokens_decoder()
        self.ids = {token.content: token_id for token_id, token in sorted(added.items()) if token.special}
        longest_first = sorted(self.ids, key=len, reverse=True)
        words = "|".join(map(re.escape, longest_first)) or r"(?!)"  # (?!) never matches
        beginnings = {word[:i] for word in self.ids for i in range(1, len(word))}
        self._word = re.compile(words)
        self._beginning_at_end = re.compile(
            f"(?:{'|'.join(map(re.escape, sorted(beginnings))) or '(?!)'})\\Z"
        )
        self._in_rendered = re.compile(
            f"{_START}(?P<marked>{words}){_END}|[{_START}{_END}{_BREAK}]|(?P<own>{words})"
        )
        self._forgeable = frozenset(self.ids.values()) - {self.ids.get(unk_token or "")}
        self._tokenizer = tokenizer
        self._lock = threading.Lock()
        self._plain: tokenizers.Tokenizer | None = None
        self._alias_ids: dict[int, int] = {}

    def mark(self, value: Any) -> Any:
        """`value` with every string in it marked, keys of objects excepted; equal to it if there is nothing
        to mark.
        """
        if isinstance(value, str):
            return self._mark_text(value)
        if isinstance(value, dict):
            return {key: self.mark(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.mark(item) for item in value]
        return value

    def encode_marked(self, text: str) -> list[int]:
        """Token ids of a text rendered from marked strings."""
        return self._encode_plain(self._in_rendered.sub(self._unmark, text), add_special_tokens=False)

    def encode_as_text(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Token ids of a text in which control tokens are ordinary text."""
        return self._encode_plain(_MARKS.sub("", text), add_special_tokens=add_special_tokens)

    def _mark_text(self, text: str) -> str:
        marked = self._word.sub(f"{_START}\\g<0>{_END}", _MARKS.sub("", text))
        return marked + _BREAK if self._beginning_at_end.search(marked) else marked

    def _unmark(self, match: re.Match[str]) -> str:
        if match["own"] is not None:
            return _alias(self.ids[match["own"]])
        return match["marked"] or ""

    def _encode_plain(self, text: str, *, add_special_tokens: bool) -> list[int]:
        plain = self._plain_tokenizer()
        token_ids = plain.encode(text, add_special_tokens=False).ids
        forged = self._forgeable.intersection(token_ids)
        if forged:  # a vocabulary that spells a control token out of ordinary text
            word = next(word for word, token_id in self.ids.items() if token_id in forged)
            raise RequestError(
                f"the text {word!r} cannot be told from a control token by this model's tokenizer"
            )
        if add_special_tokens:
            token_ids = plain.encode(text, add_special_tokens=True).ids
        return [self._alias_ids.get(token_id, token_id) for token_id in token_ids]

    def _plain_tokenizer(self) -> tokenizers.Tokenizer:
        with self._lock:
            if self._plain is None:
                plain = tokenizers.Tokenizer.from_str(self._tokenizer.to_str())
                plain.encode_special_tokens = True
                for token_id, token in self._tokenizer.get_added_tokens_decoder().items():
                    if token.special:
                        alias = tokenizers.AddedToken(
                            _alias(token_id),
                            lstrip=token.lstrip,
                            rstrip=token.rstrip,
                            single_word=token.single_word,
                            normalized=False,
                            special=False,
                        )
                        plain.add_tokens([alias])
                        alias_id = plain.token_to_id(alias.content)
                        assert alias_id is not None
                        self._alias_ids[alias_id] = token_id
                self._plain = plain
            return self._plain


def _alias(token_id: int) -> str:
    return f"{_START}{token_id}{_END}"
