"""Events that a taker takes as they arrive, and those that wait."""

import asyncio

import pytest

from pagedc.runtime.errors import EngineError
from pagedc.runtime.event_stream import EventStream
from pagedc.runtime.messages import TokenEvent


def event(token_id: int, index: int = 0, finish_reason: str | None = None) -> TokenEvent:
    return TokenEvent("r", index, [token_id], finish_reason=finish_reason)


def test_a_taker_is_given_events_in_order_until_it_declines() -> None:
    async def main() -> None:
        taken: list[int] = []
        is_free = True

        def take(each: TokenEvent) -> bool:
            if is_free:
                taken.extend(each.token_ids)
            return is_free

        stream = EventStream(1, take)
        stream.put(event(1))
        is_free = False
        stream.put(event(2))
        is_free = True
        stream.put(event(3))  # behind the one that waits
        assert taken == [1]
        assert [await stream.next(), await stream.next()] == [event(2), event(3)]
        stream.put(event(4))
        stream.put(event(5, finish_reason="stop"))  # ends the sequence: whoever waits must see it
        assert taken == [1, 4]
        assert stream.is_finished
        assert await stream.next() == event(5, finish_reason="stop")
        stream.put(event(6))
        assert taken == [1, 4]

    asyncio.run(main())


def test_what_waits_of_a_dropped_sequence_is_not_given_either() -> None:
    async def main() -> None:
        stream = EventStream(3)
        for each in (event(1), event(2, index=1), event(3, index=2), event(4, index=1, finish_reason="stop")):
            stream.put(each)
        assert await stream.next() == event(1)
        assert stream.drop(1) == []  # it has ended, and nobody has heard of it
        assert [await stream.next() for _ in range(4)] == [None, event(3, index=2), None, None]
        stream.put(event(5))
        assert stream.drop(None) == [0, 2]
        assert [await stream.next(), await stream.next()] == [None, None]
        assert (stream.is_finished, stream.has_news) == (True, False)

    asyncio.run(main())


def test_what_a_taker_raises_ends_its_own_request() -> None:
    async def main() -> None:
        def take(each: TokenEvent) -> bool:
            raise ZeroDivisionError

        stream = EventStream(2, take)
        stream.put(event(1))
        stream.put(event(2, index=1))
        with pytest.raises(ZeroDivisionError):
            await stream.next()
        stream.fail(EngineError("gone"))

    asyncio.run(main())
