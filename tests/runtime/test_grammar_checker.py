"""What a server says of grammars: tried in a real process, which may be stopped or killed."""

import json
import os
import signal
from collections.abc import Iterator

import pytest

from pagedc.runtime import worker
from pagedc.runtime.errors import EngineError, RequestError
from pagedc.runtime.grammar_checker import MAX_REMEMBERED, GrammarChecker
from pagedc.runtime.grammars import GrammarKind, GrammarSource

GOOD = GrammarSource("response_format", "json_schema", '{"type": "integer"}')
# Half a second of work for llguidance, which finds nothing wrong with it: hundreds of times the limit below.
LONG = GrammarSource(
    "response_format",
    "json_schema",
    json.dumps({"properties": {f"p{i}": {"pattern": f"^[a-z]{{1,{i % 50 + 1}}}$"} for i in range(4000)}}),
)
SHORT_LIMIT = 0.001  # seconds


@pytest.fixture
def checker() -> Iterator[GrammarChecker]:
    found = GrammarChecker(time_limit=60, max_len=len(LONG.text))
    yield found
    found.close()


def process(checker: GrammarChecker) -> int:
    """The id of its process."""
    assert checker._worker is not None
    return checker._worker._process.pid


def refusal(checker: GrammarChecker, source: GrammarSource) -> str:
    with pytest.raises(RequestError) as caught:
        checker.check(source)
    assert (caught.value.param, caught.value.code) == (source.param, "invalid_grammar")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("json_schema", '{"type": "integer"}', '{"type": "whole"}'),
        ("regex", "[a-z]+", "[a-z"),
        ("grammar", 'start: "yes" | "no"', "start: missing"),
    ],
)
def test_a_verdict_is_the_same_again(checker: GrammarChecker, kind: GrammarKind, good: str, bad: str) -> None:
    grammar = checker.check(GrammarSource("f", kind, good))
    why = refusal(checker, GrammarSource("f", kind, bad))
    assert why.startswith("Invalid value for 'f': ")
    os.kill(process(checker), signal.SIGKILL)
    checker._worker.ask = None  # type: ignore[union-attr, method-assign, assignment]  nobody is asked
    assert checker.check(GrammarSource("f", kind, good)) == grammar
    assert refusal(checker, GrammarSource("g", kind, bad)) == why.replace("'f'", "'g'")


def test_verdicts_are_remembered_up_to_a_number(checker: GrammarChecker) -> None:
    for i in range(MAX_REMEMBERED + 3):
        checker.check(GrammarSource("f", "regex", f"a{i}"))
        checker.check(GOOD)  # asked for all the time: it stays
    assert len(checker._verdicts) == MAX_REMEMBERED


def test_one_that_takes_too_long_is_stopped_and_the_next_one_served(checker: GrammarChecker) -> None:
    checker._time_limit = SHORT_LIMIT
    assert "it takes longer than 0.001 s to compile" in refusal(checker, LONG)
    checker._time_limit = 60
    assert checker.check(GOOD)
    asked = process(checker)
    assert "it takes longer" in refusal(checker, LONG)  # remembered
    assert process(checker) == asked


def test_a_process_that_was_killed_is_no_fault_of_the_next_grammar(checker: GrammarChecker) -> None:
    checker.check(GOOD)
    os.kill(process(checker), signal.SIGKILL)
    os.waitid(os.P_PID, process(checker), os.WEXITED | os.WNOWAIT)
    assert checker.check(GrammarSource("f", "regex", "[a-z]+"))


def test_a_machine_that_gives_it_no_time_is_no_fault_of_the_grammar(
    checker: GrammarChecker, monkeypatch: pytest.MonkeyPatch
) -> None:
    checker.check(GOOD)
    os.kill(process(checker), signal.SIGSTOP)
    source = GrammarSource("f", "regex", "[a-z]+")
    with monkeypatch.context() as patch:
        patch.setattr(worker, "PATIENCE", 0.1)
        with pytest.raises(EngineError, match=r"grammar_process said nothing for 0\.1 s"):
            checker.check(source)
    assert checker.check(source)  # a new process, and nothing was remembered


def test_texts_that_never_reach_the_process(checker: GrammarChecker) -> None:
    long = GrammarSource("f", "regex", "a" * (len(LONG.text) + 1))
    assert f"it has {len(long.text)} characters, above {len(LONG.text)}" in refusal(checker, long)
    half = GrammarSource("f", "regex", "\ud83d")
    assert "it holds half of a surrogate pair" in refusal(checker, half)
    assert checker._worker is None


def test_closed_twice(checker: GrammarChecker) -> None:
    checker.check(GOOD)
    checker.close()
    checker.close()
    assert checker.check(GrammarSource("f", "regex", "a"))
