"""Progress: plain lines where there is no terminal, a bar where there is one, times either way."""

import io
import re

import pytest
from rich.console import Console

from pagedc.compiler.progress import PlainProgress, RichProgress, SilentProgress, progress_for


def run_two_phases(progress: SilentProgress) -> None:
    with progress.phase("trace") as phase:
        phase.note("30 layers [meta]")
    with progress.phase("weights", total=3) as phase:
        phase.advance()
        phase.advance(2)


def test_plain_progress_prints_a_line_a_phase() -> None:
    stream = io.StringIO()
    run_two_phases(PlainProgress(stream))
    lines = stream.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["trace", "weights"]
    assert lines[0].endswith("s  30 layers [meta]")
    assert "\x1b" not in stream.getvalue()


def test_a_stream_that_is_no_terminal_gets_plain_lines() -> None:
    assert isinstance(progress_for(io.StringIO()), PlainProgress)


def test_terminal_keeps_one_line_a_phase() -> None:
    stream = io.StringIO()
    run_two_phases(RichProgress(Console(file=stream, force_terminal=True, width=100)))
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", stream.getvalue())
    assert "30 layers [meta]" in text
    assert "3/3" in text
    assert text.count("✓") == 2


def test_times_are_kept_in_order() -> None:
    progress = SilentProgress()
    run_two_phases(progress)
    assert [(time.name, time.note) for time in progress.times] == [
        ("trace", "30 layers [meta]"),
        ("weights", ""),
    ]
    assert progress.seconds == sum(time.seconds for time in progress.times)


def test_a_phase_that_fails_is_not_told_as_done() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream)
    with pytest.raises(ZeroDivisionError), progress.phase("lower"):
        raise ZeroDivisionError
    assert (stream.getvalue(), progress.times) == ("", [])
