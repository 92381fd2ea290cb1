import asyncio
from collections.abc import Callable

import pytest

from pagedc.runtime.step_watch import StepWatch


class Clock:
    """What a watch uses of an event loop, with a time that the test decides."""

    def __init__(self) -> None:
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_later(self, delay: float, call: Callable[[], None]) -> None:
        self.timers.append((self.now + delay, call))

    def go_to(self, time: float) -> None:
        self.timers.sort(key=lambda timer: timer[0])
        while self.timers and self.timers[0][0] <= time:
            self.now, call = self.timers.pop(0)
            call()
            self.timers.sort(key=lambda timer: timer[0])
        self.now = time

    def stop_until(self, time: float) -> None:
        """As a process that is stopped: the timers come when it goes on."""
        self.now, timers, self.timers = time, self.timers, []
        for _, call in timers:
            call()


class Engine:
    is_busy = False
    killed_at: float | None = None


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(asyncio, "get_running_loop", lambda: clock)
    return clock


def watched(clock: Clock, timeout: float | None) -> tuple[Engine, StepWatch]:
    engine = Engine()

    def kill() -> None:
        engine.killed_at = clock.now

    watch = StepWatch(timeout, lambda: engine.is_busy, kill)
    watch.begin()
    engine.is_busy = True
    return engine, watch


def test_silence_of_a_busy_engine_ends_it(clock: Clock) -> None:
    engine, watch = watched(clock, 10)
    clock.go_to(8)
    watch.hear()
    watch.begin()  # more work is no word of it
    clock.go_to(17)
    assert engine.killed_at is None
    clock.go_to(20)
    assert engine.killed_at == 18


def test_work_after_a_pause_has_all_the_time(clock: Clock) -> None:
    engine, watch = watched(clock, 10)
    clock.go_to(1)
    watch.hear()
    engine.is_busy = False
    clock.go_to(9)
    watch.begin()
    engine.is_busy = True
    clock.go_to(18)
    assert engine.killed_at is None
    clock.go_to(20)
    assert engine.killed_at == 19


def test_an_engine_is_not_killed_for_the_time_that_its_server_was_stopped(clock: Clock) -> None:
    engine, _ = watched(clock, 10)
    clock.stop_until(500)
    clock.go_to(509)
    assert engine.killed_at is None
    clock.go_to(520)
    assert engine.killed_at == 510


@pytest.mark.parametrize("timeout", [None, 10])
def test_an_engine_without_work_or_limit_lives(timeout: float | None, clock: Clock) -> None:
    engine, _ = watched(clock, timeout)
    engine.is_busy = timeout is None
    clock.go_to(1000)
    assert engine.killed_at is None
    assert clock.timers == []
