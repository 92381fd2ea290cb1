"""The events of one request on their way from the engine to whoever waits for them."""

import asyncio
from collections.abc import Callable

from pagedc.runtime.errors import PagedcError
from pagedc.runtime.messages import TokenEvent

# Is given an event as it arrives; False leaves it to whoever waits for `next`.
Taker = Callable[[TokenEvent], bool]


class EventStream:
    """Events of one request on their way to its generator.

    A taker gets those that end no sequence at once, while none before them waits: waking a task for each
    costs more than what is done with most.
    """

    def __init__(self, num_sequences: int, take: Taker | None = None) -> None:
        self._take = take
        self._num_sequences = num_sequences
        self._open = set(range(num_sequences))
        self._dropped: set[int] = set()
        self._queue: asyncio.Queue[TokenEvent | Exception | None] = asyncio.Queue()

    @property
    def is_finished(self) -> bool:
        """Whether no event of any sequence will come."""
        return not self._open

    @property
    def has_news(self) -> bool:
        """Whether `next` would return at once."""
        return not self._queue.empty()

    async def next(self) -> TokenEvent | None:
        """The next event, None when there is only to look whether it is finished; raises what `fail` was
        given, and what the taker raised.
        """
        item = await self._queue.get()
        if isinstance(item, Exception):
            raise item
        return None if item is None or item.index in self._dropped else item

    def put(self, event: TokenEvent) -> None:
        """Add an event, unless its sequence has ended or was dropped."""
        if event.index not in self._open:
            return
        if event.finish_reason is not None:
            self._open.discard(event.index)
        elif self._take is not None and self._queue.empty():
            try:
                if self._take(event):
                    return
            except Exception as error:  # the request's, not the engine's
                self._queue.put_nowait(error)
                return
        self._queue.put_nowait(event)

    def fail(self, error: PagedcError) -> None:
        """End every sequence; `next` raises the error once it has returned what came before."""
        self._open.clear()
        self._queue.put_nowait(error)

    def drop(self, index: int | None) -> list[int]:
        """Give no more events of a sequence, or of any, not even those that wait; returns which were open."""
        dropped = set(range(self._num_sequences)) if index is None else {index}
        self._dropped |= dropped
        were_open = sorted(self._open & dropped)
        self._open -= dropped
        self._queue.put_nowait(None)
        return were_open
