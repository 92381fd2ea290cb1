"""An engine without a model: its answers follow from the prompt, so that tests know them.

It answers with the bytes of PANGRAM over and over, from the byte that the seed names, one token a byte. The
prompt may ask for trouble: "#die" ends the engine after three tokens, "#refuse" refuses, "#eos N" ends the
answer after N tokens, "#say TEXT#" makes TEXT the answer, "#until FILE#" holds it after three tokens until
FILE is there.
"""

import asyncio
import re
import struct
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from pagedc.runtime.errors import EngineClosedError, EngineDeadError, EngineError, RequestError
from pagedc.runtime.event_stream import Taker
from pagedc.runtime.messages import EngineStats, Logprob, Ready, TokenEvent
from pagedc.runtime.pooling import Pooling
from pagedc.runtime.sampling_params import SamplingParams

PANGRAM = "The quick brown fox jumps over the lazy dog. "
EOS = 257  # after the 256 bytes and <|im_start|>
VOCAB_SIZE = 258
MAX_MODEL_LEN = 512
MAX_NUM_SEQS = 4


class FakeEngine:
    """In the server's own process; takes `delay` seconds a token, and starts once there is a file
    `boot_until`.
    """

    def __init__(
        self, *, delay: float = 0.0, boot_until: str = "", fail: str = "", max_model_len: int = MAX_MODEL_LEN
    ) -> None:
        self._max_model_len = max_model_len
        self.num_restarts = 0
        self.start_seconds = 0.0
        self.is_ready = False
        self._delay = delay
        self._boot_until = boot_until
        self._fail = fail
        self._running: set[str] = set()
        self._aborted: set[tuple[str, int | None]] = set()
        self._is_closed = asyncio.Event()
        self._num_tokens = 0

    @property
    def stats(self) -> EngineStats:
        """Only what tests look at."""
        num_tokens = self._num_tokens
        return EngineStats(
            num_running=len(self._running), num_generation_tokens=num_tokens, num_steps=num_tokens
        )

    async def start(self) -> Ready:
        """Become ready, or fail as told."""
        while self._boot_until and not Path(self._boot_until).exists():
            await asyncio.sleep(0.01)
        if self._fail:
            raise EngineError(self._fail)
        self.is_ready = True
        return Ready(
            num_blocks=64,
            max_num_seqs=MAX_NUM_SEQS,
            max_model_len=self._max_model_len,
            load_seconds=0.1,
        )

    async def generate(
        self,
        request_id: str,
        prompt_token_ids: Sequence[int],
        params: SamplingParams,
        *,
        priority: int = 0,
        cache_salt: str = "",
        pooling: Pooling = "",
        take: Taker | None = None,
    ) -> AsyncGenerator[TokenEvent, None]:
        """One byte of PANGRAM a token and sequence."""
        prompt = bytes(token_id for token_id in prompt_token_ids if token_id < 256).decode("utf-8", "replace")
        if "#refuse" in prompt:
            raise RequestError("refused by the engine", param="prompt")
        eos_after = int(match[1]) if (match := re.search(r"#eos (\d+)", prompt)) else None
        if pooling:
            values = [len(prompt_token_ids), 3.0, ("mean", "last", "cls").index(pooling), 0.0]
            embedding = struct.pack("4f", *values)
            yield TokenEvent(request_id, 0, [], finish_reason="stop", embedding=embedding)
            return
        said = match[1].encode() if (match := re.search(r"#say (.*?)#", prompt, re.DOTALL)) else None
        until = Path(match[1]) if (match := re.search("#until (.*?)#", prompt)) else None
        self._running.add(request_id)
        try:
            for step in range(params.max_tokens or 0):
                await self._wait(self._delay)
                while step == 3 and until is not None and not until.exists():
                    await self._wait(0.01)
                if "#die" in prompt and step == 3:
                    raise EngineDeadError("the engine died; it is being restarted")
                left = [i for i in range(params.n) if (request_id, i) not in self._aborted]
                if not left:
                    return
                is_eos = step == (eos_after if said is None else len(said)) and not params.ignore_eos
                is_last = step + 1 == params.max_tokens
                for index in left:
                    token_id = EOS if is_eos else self._token(step + index + (params.seed or 0))
                    if said is not None and not is_eos:
                        token_id = said[step]
                    is_stop = is_eos or token_id in params.stop_token_ids
                    self._num_tokens += 1
                    event = TokenEvent(
                        request_id,
                        index,
                        [token_id],
                        [] if params.logprobs is None else [_logprob(token_id, params.logprobs)],
                        "stop" if is_stop else "length" if is_last else None,
                        token_id if is_stop else None,
                        num_cached_tokens=len(prompt_token_ids) // 16 * 16 if step == 0 else 0,
                        prompt_logprobs=_prompt_logprobs(prompt_token_ids, params) if step == 0 else None,
                    )
                    if take is None or event.finish_reason is not None or not take(event):
                        yield event
                    if is_stop:
                        self._aborted.add((request_id, index))
        finally:
            self._running.discard(request_id)

    def abort(self, request_id: str, index: int | None = None) -> None:
        """Forget a sequence."""
        self._aborted.add((request_id, index))

    def prepare_grammars(self) -> None:
        """It follows none."""

    async def close(self, reason: str = "") -> None:
        """End whatever runs."""
        self._why_closed = reason
        self._is_closed.set()

    async def _wait(self, seconds: float) -> None:
        if self._is_closed.is_set():
            raise EngineClosedError(self._why_closed)
        try:
            await asyncio.wait_for(self._is_closed.wait(), seconds) if seconds else await asyncio.sleep(0)
        except TimeoutError:
            return
        if self._is_closed.is_set():
            raise EngineClosedError(self._why_closed)

    def _token(self, position: int) -> int:
        return PANGRAM.encode()[position % len(PANGRAM)]


def _logprob(token_id: int, num_top: int) -> Logprob:
    others = [(token_id + i) % 256 for i in range(num_top)]
    return Logprob(token_id, -0.5, [(other, -0.5 - i) for i, other in enumerate(others)])


def _prompt_logprobs(token_ids: Sequence[int], params: SamplingParams) -> list[Logprob | None] | None:
    if params.prompt_logprobs is None:
        return None
    return [None, *(_logprob(token_id, params.prompt_logprobs) for token_id in token_ids[1:])]
