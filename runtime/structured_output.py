"""Keep a sequence's tokens within its grammar: compiled off the engine's thread, asked for a mask each step.

llguidance is imported when an engine first has nothing to do, and the package's tokenizer read for it (0.17
s, 33 MB with 49,152 tokens) when the first grammar is announced: many an engine never sees one.
"""

import contextlib
import queue
import threading
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from pagedc.runtime.heap import trim_heap

if TYPE_CHECKING:  # not numpy either: the process that tries grammars does without
    import llguidance
    import numpy as np
    from numpy.typing import NDArray

MAX_CACHED = 64  # compiled grammars
MAX_CACHED_CHARS = 4 << 20  # of their texts together
# What llguidance says of a grammar without an end, and what that means to who wrote it.
_PLAIN_WORDS = {
    "NoExtensionBias": "no text fits it; does its schema refer to itself without a way to end?",
    "Too many items": "it is too ambiguous, or its schema refers to itself without a way to end",
}


def parser_limits() -> "llguidance.LLParserLimits":
    """Bounds of one grammar: of a mask some 5 ms of work, of the lexer's tables some 40 MB."""
    from llguidance import LLParserLimits

    return LLParserLimits(
        step_lexer_fuel=50_000,  # 14 thousand a millisecond
        step_max_items=20_000,  # 20 thousand a millisecond
        max_lexer_states=20_000,  # of 1–2 kB
        max_grammar_size=100_000,  # symbols
        verbose_errors=False,
    )


class GrammarState:
    """Where one sequence is in its grammar. It follows the tokens that exist, not those that are computed: a
    preempted sequence keeps it.
    """

    def __init__(self, matcher: "llguidance.LLMatcher") -> None:
        self._matcher = matcher
        self._stuck = ""

    @property
    def error(self) -> str:
        """Why no mask can be had any more; "" while all is well."""
        if self._stuck:
            return self._stuck
        error: str = self._matcher.get_error() if self._matcher.is_error() else ""
        found = next((words for sign, words in _PLAIN_WORDS.items() if sign in error), error)
        return " ".join(found.replace("<non-verbose/>", "").split())

    @property
    def is_finished(self) -> bool:
        """Whether no token may follow."""
        return bool(self._matcher.is_stopped())

    def copy(self) -> "GrammarState":
        """For another sequence, at the same place."""
        return GrammarState(self._matcher.deep_copy())

    def fill_mask(self, row: "NDArray[np.uint32]") -> None:
        """Set the bits [ceil(vocab_size / 32)] of the tokens that may come next; of all if there is an
        error.
        """
        self._matcher.unsafe_compute_mask_ptr(row.ctypes.data, row.nbytes)
        if not self._matcher.is_error() and not row.any():
            self._stuck = "the vocabulary has no token for what must come"
        if self.error:
            row.fill(0xFFFFFFFF)

    def accepts(self, token_id: int) -> bool:
        """Whether a token may come next. Where the vocabulary cannot spell what must come, the mask is
        wrong.
        """
        if self._matcher.validate_tokens([token_id]) == 1:
            return True
        self._stuck = self._stuck or "the vocabulary has no token for what must come"
        return False

    def take(self, token_id: int) -> None:
        """Go on past a token."""
        self._matcher.consume_token(token_id)

    def forced_tokens(self) -> list[int]:
        """The tokens that must come next, however the model scores them."""
        tokens: list[int] = self._matcher.compute_ff_tokens()
        # A character that the vocabulary cannot spell (SmolLM2's lacks some bytes) comes as tokens of
        # another text.
        return tokens[: self._matcher.validate_tokens(tokens)] if tokens else tokens


class Compiled(NamedTuple):
    """What became of a request's grammar."""

    request_id: str
    state: GrammarState | None  # at the beginning; to be copied for each sequence
    error: str = ""


class GrammarCompiler:
    """Compiles in a thread of its own, and remembers. All methods belong to the engine's thread."""

    def __init__(self, tokenizer_file: Path, vocab_size: int, eos_token_ids: Iterable[int]) -> None:
        self._tokenizer_file = tokenizer_file
        self._vocab_size = vocab_size
        self._eos_token_ids = sorted(eos_token_ids)
        self._jobs: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()  # None = announced
        self._done: queue.SimpleQueue[Compiled] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_announced = False
        # The rest is the thread's.
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._cache: OrderedDict[str, Compiled] = OrderedDict()
        self._num_chars = 0

    def prepare(self) -> None:
        """Begin to import, for whoever comes; does nothing the second time."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="grammars", daemon=True)
            self._thread.start()

    def announce(self) -> None:
        """Begin to read the tokenizer: a grammar is being checked."""
        if not self._is_announced:
            self._is_announced = True
            self.prepare()
            self._jobs.put(None)

    def submit(self, request_id: str, grammar: str) -> None:
        """Begin to compile; `take` brings the result."""
        self.prepare()
        self._jobs.put((request_id, grammar))

    def take(self, timeout: float) -> list[Compiled]:
        """What has been compiled, after waiting at most `timeout` seconds for the first."""
        done: list[Compiled] = []
        try:
            done.append(self._done.get(timeout=timeout) if timeout > 0 else self._done.get_nowait())
            while True:
                done.append(self._done.get_nowait())
        except queue.Empty:
            return done

    def _work(self) -> None:
        with contextlib.suppress(ImportError):  # it comes again with the first grammar
            import llguidance  # noqa: F401
        while True:
            job = self._jobs.get()
            if job is None:
                with contextlib.suppress(BaseException):  # likewise
                    self._read_tokenizer()
                continue
            request_id, grammar = job
            try:
                compiled = self._compile(grammar)
            # A thread that died would leave its requests waiting; a panic of Rust's is no Exception.
            except BaseException as error:
                compiled = Compiled("", None, f"{type(error).__name__}: {error}")
            self._done.put(compiled._replace(request_id=request_id))

    def _compile(self, grammar: str) -> Compiled:
        found = self._cache.pop(grammar, None)
        if found is None:
            found = self._compile_new(grammar)
            self._num_chars += len(grammar)
        self._cache[grammar] = found
        while len(self._cache) > MAX_CACHED or (self._num_chars > MAX_CACHED_CHARS and len(self._cache) > 1):
            text, _ = self._cache.popitem(last=False)
            self._num_chars -= len(text)
        return found

    def _compile_new(self, grammar: str) -> Compiled:
        from llguidance import LLMatcher

        tokenizer = self._read_tokenizer()
        state = GrammarState(LLMatcher(tokenizer, grammar, log_level=0, limits=parser_limits()))
        return Compiled("", None, state.error) if state.error else Compiled("", state)

    def _read_tokenizer(self) -> "llguidance.LLTokenizer":
        """Once; meanwhile llguidance holds Python's lock, and so the engine."""
        from llguidance import LLTokenizer

        if self._tokenizer is None:
            # With tables ("slices") for what JSON's strings are made of: a mask within a string of bounded
            # length takes 30 instead of 900 µs, and reading the tokenizer half as long again (SmolLM2's).
            self._tokenizer = LLTokenizer(
                self._tokenizer_file.read_text(),
                n_vocab=self._vocab_size,
                eos_token=self._eos_token_ids or None,
                slices=LLTokenizer.json_slices(),
            )
            trim_heap()  # of what building the tables took: 25 of 75 MB for 49,152 tokens
        return self._tokenizer
