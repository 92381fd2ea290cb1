"""A device whose stream stands still until somebody waits for it, as a GPU that is slower than the host:
memory that is written too early, or read too early, shows.
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from pagedc.runtime.executors import cuda


class LateDevice:
    """Everything is the other device's but its stream."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self._stream: deque[Callable[[], None] | int] = deque()  # work and marks
        self.most_marks = 0  # of steps that were open at a time

    def __getattr__(self, name: str) -> Any:
        if name not in ("allocate", "pinned", "prepare", "use", "close"):
            raise AttributeError(name)
        return getattr(self._device, name)

    def copy_in(self, *given: Any) -> None:
        self._stream.append(partial(self._device.copy_in, *given))

    def copy_rows(self, *given: Any) -> None:
        self._stream.append(partial(self._device.copy_rows, *given))

    def copy_out(self, *given: Any) -> None:
        self._stream.append(partial(self._device.copy_out, *given))

    def run(self, *given: Any) -> None:
        self._stream.append(partial(self._device.run, *given))

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        outside, self._stream = self._stream, deque()
        work()
        captured, self._stream = self._stream, outside
        return lambda: self._stream.extend(captured)

    def mark(self, slot: int) -> None:
        self._stream.append(slot)
        self.most_marks = max(self.most_marks, sum(isinstance(each, int) for each in self._stream))

    def wait(self, slot: int) -> None:
        while slot in self._stream:
            self._do_next()

    def synchronize(self) -> None:
        while self._stream:
            self._do_next()

    def _do_next(self) -> None:
        work = self._stream.popleft()
        if callable(work):
            work()


def use_late_device(monkeypatch: pytest.MonkeyPatch) -> list[LateDevice]:
    """Packages that are opened from now on run on one; they are put into the list."""
    devices: list[LateDevice] = []
    real = cuda._import

    def import_(name: str) -> Any:
        module = real(name)
        if not name.endswith(".launcher"):
            return module

        def open_device(*given: Any, **named: Any) -> LateDevice:
            devices.append(LateDevice(module.open_device(*given, **named)))
            return devices[-1]

        return SimpleNamespace(
            DeviceError=module.DeviceError, LaunchTable=module.LaunchTable, open_device=open_device
        )

    monkeypatch.setattr(cuda, "_import", import_)
    return devices
