"""See that an engine's step ends some time: one that hangs would hold its requests for ever."""

import asyncio
import logging
from collections.abc import Callable

LATE = 1.0  # seconds that a timer comes late where its process did not run: SIGSTOP, a frozen container

logger = logging.getLogger(__name__)


class StepWatch:
    """Kills an engine that says nothing for some time although it has work."""

    def __init__(self, timeout: float | None, is_busy: Callable[[], bool], kill: Callable[[], None]) -> None:
        """`timeout`: seconds without a word from a busy engine; None = as long as it likes."""
        self.timeout = timeout
        self._is_busy = is_busy
        self._kill = kill
        self._last_word = 0.0  # when the engine was last heard of, or given work after it had none
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # when the timer should come

    def begin(self) -> None:
        """The engine is about to be given work."""
        if not self._is_busy():
            self.hear()  # a timer that still runs began with work that is done
        if self.timeout is not None and self._timer is None:
            self._look_in(self.timeout)

    def hear(self) -> None:
        """It said something."""
        self._last_word = asyncio.get_running_loop().time()

    def end(self) -> None:
        """Look no more. Safe to call twice."""
        if self._timer is not None:
            self._timer.cancel()

    def look(self) -> None:
        """Kill it, or look again when its time will be over; without work it has all the time."""
        self._timer = None
        if self.timeout is None or not self._is_busy():
            return
        now = asyncio.get_running_loop().time()
        if now - self._due > LATE:
            self.hear()  # nor may the engine have run, and what it said has not been read
        left = self._last_word + self.timeout - now
        if left > 0:
            self._look_in(left)
        else:
            logger.error("the engine has not ended a step for %g s; killing it", self.timeout)
            self._kill()

    def _look_in(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        self._due = loop.time() + seconds
        self._timer = loop.call_later(seconds, self.look)
