"""Try a request's grammar in a process of its own before it reaches an engine, and remember the verdict."""

import threading
from collections import OrderedDict
from hashlib import blake2b

import msgspec

from pagedc.runtime.errors import RequestError
from pagedc.runtime.frames import FrameError
from pagedc.runtime.grammars import GrammarSource
from pagedc.runtime.messages import CheckedGrammar, CheckGrammar
from pagedc.runtime.worker import Worker

MAX_REMEMBERED = 256  # verdicts, of at most `max_len` characters each
_MODULE = "pagedc.runtime.grammar_process"


class GrammarChecker:
    """Thread-safe; blocks, so call it off the event loop. The process starts with the first check."""

    def __init__(self, *, time_limit: float = 0.8, max_len: int = 128 << 10) -> None:
        self._time_limit = time_limit  # seconds of processor time
        self._max_len = max_len  # characters
        self._lock = threading.Lock()
        self._worker: Worker | None = None
        self._verdicts: OrderedDict[bytes, CheckedGrammar] = OrderedDict()

    def check(self, source: GrammarSource) -> str:
        """The grammar for `SamplingParams.grammar`; raises RequestError that names the field, and EngineError
        where the process cannot be started or is given no time.
        """
        param, kind, text, before = source
        if len(text) > self._max_len:
            raise _refusal(param, f"it has {len(text)} characters, above {self._max_len}")
        key = blake2b(f"{kind}\0{before}\0{text}".encode(errors="surrogatepass"), digest_size=16).digest()
        with self._lock:
            verdict = self._verdicts.pop(key, None) or self._ask(CheckGrammar(kind, text, before))
            self._verdicts[key] = verdict
            if len(self._verdicts) > MAX_REMEMBERED:
                self._verdicts.popitem(last=False)
        if verdict.grammar is None:
            raise _refusal(param, verdict.error)
        return verdict.grammar

    def close(self) -> None:
        """End the process; safe to call twice."""
        with self._lock:
            self._drop()

    def _ask(self, request: CheckGrammar) -> CheckedGrammar:
        try:
            data = msgspec.msgpack.encode(request)
        except UnicodeEncodeError:
            return CheckedGrammar(None, "it holds half of a surrogate pair, which is no character")
        if self._worker is not None and not self._worker.is_alive:
            self._drop()
        if self._worker is None:
            self._worker = Worker(_MODULE, self._time_limit)
        try:
            return msgspec.msgpack.decode(self._worker.ask(data), type=CheckedGrammar)
        except TimeoutError:
            self._drop()
            return CheckedGrammar(None, f"it takes longer than {self._time_limit:g} s to compile")
        except (OSError, FrameError, msgspec.MsgspecError):
            self._drop()
            return CheckedGrammar(None, "it takes too much memory to compile")
        except BaseException:
            self._drop()  # its answer would be taken for the next one's
            raise

    def _drop(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker = None


def _refusal(param: str, why: str) -> RequestError:
    return RequestError(f"Invalid value for '{param}': {why}.", param=param, code="invalid_grammar")
