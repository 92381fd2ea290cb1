"""Send requests at a rate, or so many at a time, and keep what came."""

import asyncio
import gc
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pagedc.runtime.bench.recording import Address, Answer, parse, record


@dataclass(frozen=True, slots=True)
class Load:
    """How requests arrive: `rate` a second with gaps of a gamma distribution, at most `concurrency` open."""

    rate: float | None = None  # None = as fast as concurrency lets them
    burstiness: float = 1.0  # of the gaps: 1 = Poisson arrivals, below = bursts, above = evenly
    concurrency: int | None = None

    def gaps(self, count: int, seed: int) -> list[float]:
        """Seconds before each request."""
        if self.rate is None:
            return [0.0] * count
        numbers = random.Random(seed)
        scale = 1 / (self.rate * self.burstiness)
        return [numbers.gammavariate(self.burstiness, scale) for _ in range(count)]


async def offer(
    address: Address, bodies: Sequence[dict[str, Any]], load: Load, *, timeout: float = 600, seed: int = 0
) -> tuple[list[Answer], float]:
    """The answers in the order of `bodies`, and the seconds from the first request to the last answer."""
    room = asyncio.Semaphore(load.concurrency or len(bodies))
    recordings: list[Any] = [None] * len(bodies)

    async def ask(i: int) -> None:
        async with room:
            recordings[i] = await record(address, bodies[i], timeout)

    gc_was_on = gc.isenabled()
    gc.disable()  # a collection would show as a pause of the server
    try:
        begin = time.perf_counter()
        due, tasks = begin, []
        for i, gap in enumerate(load.gaps(len(bodies), seed)):
            due += gap
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(ask(i)))
        await asyncio.gather(*tasks)
        seconds = time.perf_counter() - begin
    finally:
        if gc_was_on:
            gc.enable()
    return [parse(*recording) for recording in recordings], seconds
