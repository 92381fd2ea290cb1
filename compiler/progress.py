"""How a long command tells what it is doing: one line a phase.

A terminal sees a moving bar, anything else one plain line when a phase ends; `--json` and the Python API see
nothing.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TextIO

if TYPE_CHECKING:
    from rich.console import Console


class Phase(Protocol):
    """One step of the work, while it runs."""

    def advance(self, n: int = 1) -> None:
        """`n` more of the phase's total are done."""

    def note(self, text: str) -> None:
        """A fact worth the rest of the phase's line: "30 layers, 210 tensors". The last one stays."""


class Progress(Protocol):
    """Where a pipeline reports to."""

    def phase(self, name: str, total: int | None = None) -> AbstractContextManager[Phase]:
        """Open a phase; `total` counts what `advance` will tell, None where it is not known."""


class PhaseTime(NamedTuple):
    """A phase that has ended."""

    name: str
    seconds: float
    note: str


class SilentProgress:
    """Keeps the times and shows nothing."""

    def __init__(self) -> None:
        self.times: list[PhaseTime] = []

    @contextmanager
    def phase(self, name: str, total: int | None = None) -> Iterator[Phase]:
        phase = self._open(name, total)
        begin = time.perf_counter()
        try:
            yield phase
        except BaseException:
            self._close(phase, None)
            raise
        ended = PhaseTime(name, time.perf_counter() - begin, phase.text)
        self.times.append(ended)
        self._close(phase, ended)

    @property
    def seconds(self) -> float:
        """Of all phases that have ended."""
        return sum(phase.seconds for phase in self.times)

    def _open(self, name: str, total: int | None) -> "_Phase":
        return _Phase()

    def _close(self, phase: "_Phase", ended: PhaseTime | None) -> None:
        """Called as a phase ends; `ended` is None where it failed."""


class PlainProgress(SilentProgress):
    """One line for each phase that has ended; no control codes."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream

    def _close(self, phase: "_Phase", ended: PhaseTime | None) -> None:
        if ended is not None:
            print(
                f"{ended.name:<10} {ended.seconds:6.1f} s  {ended.note}".rstrip(),
                file=self._stream,
                flush=True,
            )


class RichProgress(SilentProgress):
    """A bar while a phase runs, its line when it has ended."""

    def __init__(self, console: "Console") -> None:
        super().__init__()
        self._console = console

    def _open(self, name: str, total: int | None) -> "_Phase":
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        counting = (BarColumn(bar_width=24), MofNCompleteColumn()) if total is not None else ()
        bars = Bars(
            SpinnerColumn(),
            TextColumn("{task.description:<10}"),
            TimeElapsedColumn(),
            *counting,
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=self._console,
            transient=True,
        )
        bars.start()
        return _RichPhase(bars, bars.add_task(name, total=total, note=""))

    def _close(self, phase: "_Phase", ended: PhaseTime | None) -> None:
        assert isinstance(phase, _RichPhase)
        phase.bars.stop()
        if ended is not None:
            from rich.text import Text

            line = Text.assemble(
                ("✓ ", "green"), f"{ended.name:<10} {ended.seconds:6.1f} s  ", (ended.note, "dim")
            )
            self._console.print(line, soft_wrap=True)


def progress_for(stream: TextIO | None = None) -> SilentProgress:
    """What suits the stream (stderr if None): bars on a terminal, else plain lines."""
    stream = sys.stderr if stream is None else stream
    if not stream.isatty():
        return PlainProgress(stream)
    from rich.console import Console

    return RichProgress(Console(file=stream))


class _Phase:
    def __init__(self) -> None:
        self.text = ""

    def advance(self, n: int = 1) -> None:
        pass

    def note(self, text: str) -> None:
        self.text = text


class _RichPhase(_Phase):
    def __init__(self, bars: Any, task: Any) -> None:
        super().__init__()
        self.bars = bars
        self._task = task

    def advance(self, n: int = 1) -> None:
        self.bars.advance(self._task, n)

    def note(self, text: str) -> None:
        super().note(text)
        self.bars.update(self._task, note=text)
