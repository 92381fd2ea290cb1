"""What is asked, and when."""

import json
import statistics
from pathlib import Path

import pytest

from pagedc.runtime.bench.load import Load
from pagedc.runtime.bench.workload import Ask, Lengths, drawn, from_file, parse_lengths, request_body
from pagedc.runtime.errors import UsageError


def test_lengths() -> None:
    assert parse_lengths("128") == Lengths(128, 128)
    assert parse_lengths("64:256") == Lengths(64, 256)
    for text in ("", "0", "-1", "5:4", "1:2:3", "x"):
        with pytest.raises(ValueError, match="is not a"):
            parse_lengths(text)


def test_drawn_prompts_have_their_lengths_and_repeat_by_seed() -> None:
    asks = drawn(200, Lengths(3, 6), Lengths(2, 2), seed=1)
    assert {len(ask.prompt) for ask in asks} == {3, 4, 5, 6}
    assert {ask.max_tokens for ask in asks} == {2}
    assert asks == drawn(200, Lengths(3, 6), Lengths(2, 2), seed=1)
    assert asks != drawn(200, Lengths(3, 6), Lengths(2, 2), seed=2)


def test_prompts_of_a_file_are_used_again(tmp_path: Path) -> None:
    path = tmp_path / "prompts"
    path.write_text('Hello\n\n{"prompt": [5, 6], "max_tokens": 4}\n')
    asks = from_file(path, 3, Lengths(9, 9), 0)
    assert asks == [Ask("Hello", 9), Ask([5, 6], 4), Ask("Hello", 9)]


@pytest.mark.parametrize(
    ("text", "why"), [("", "holds no prompt"), ("{", "Expecting"), ('{"text": 1}', "line 1 has no prompt")]
)
def test_a_file_that_is_none_is_refused_by_name(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "prompts"
    path.write_text(text)
    with pytest.raises(UsageError, match=why) as error:
        from_file(path, 1, Lengths(1, 1), 0)
    assert str(path) in str(error.value)


def test_bodies_are_json_of_either_route() -> None:
    plain = request_body(Ask([5, 6], 4), "m", chat=False, ignore_eos=True)
    assert json.loads(json.dumps(plain))["prompt"] == [5, 6]
    assert plain["ignore_eos"] is True
    chat = request_body(Ask("Hello", 4), "m", chat=True, ignore_eos=False)
    assert chat["messages"] == [{"role": "user", "content": "Hello"}]
    assert "prompt" not in chat
    assert "ignore_eos" not in chat


@pytest.mark.parametrize("burstiness", [0.25, 1.0, 100.0])
def test_arrivals_keep_the_rate_and_vary_with_burstiness(burstiness: float) -> None:
    gaps = Load(rate=50.0, burstiness=burstiness).gaps(20_000, seed=3)
    mean = statistics.fmean(gaps)
    assert mean == pytest.approx(1 / 50, rel=0.05)
    # Of a gamma distribution: the square of the coefficient of variation is 1 / shape.
    assert statistics.pvariance(gaps) / mean**2 == pytest.approx(1 / burstiness, rel=0.1)


def test_without_a_rate_nobody_waits() -> None:
    assert Load(concurrency=4).gaps(3, 0) == [0.0, 0.0, 0.0]
