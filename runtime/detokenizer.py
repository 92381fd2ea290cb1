"""Text of a growing sequence: whole characters only, held back while a stop string may be forming, in linear time."""

from collections.abc import Iterable, Sequence

from pagedc.runtime.tokenizer import Tokenizer


class Detokenizer:
    """One sequence's text.

    >>> detokenizer = Detokenizer(tokenizer, stop=["\\n\\n"])
    >>> text = detokenizer.add(event.token_ids)     # what may be shown now, perhaps ""
    >>> if detokenizer.stop_string is not None: ...  # matched: the text ends before it; add() gives "" from now on
    >>> text += detokenizer.finish()                # what was held back
    """

    stop_string: str | None  # the one that matched

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stop: Sequence[str] = (),
        include_stop: bool = False,  # whether the matched stop string stays in the text
        skip_special_tokens: bool = True,
        prompt_token_ids: Sequence[int] = (),  # context of the first token, for tokenizers that need one
    ) -> None:
        raise NotImplementedError

    def add(self, token_ids: Iterable[int]) -> str:
        """Text that these tokens made final."""
        raise NotImplementedError

    def finish(self) -> str:
        """The rest, when no token will come; an unfinished character becomes U+FFFD."""
        raise NotImplementedError
