"""A wrong number is refused in one line that names it, before anything is measured."""

import argparse

import pytest

from pagedc.runtime.bench.options import add_bench

SERVE, LATENCY = ["serve", "http://localhost"], ["latency", "a.pagedc"]


def parser() -> argparse.ArgumentParser:
    found = argparse.ArgumentParser()
    add_bench(found)
    return found


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*SERVE, "--num-requests", "0"], "--num-requests: '0' is not a whole number from 1 to 10000000"),
        ([*LATENCY, "--runs", "1.5"], "--runs: '1.5' is not a whole number from 1"),
        ([*LATENCY, "--input-len", "128", "-1"], "--input-len: '-1' is not a whole number from 1"),
        ([*SERVE, "--warmup", "-1"], "--warmup: '-1' is not a whole number from 0"),
        ([*SERVE, "--rate", "1", "inf"], "--rate: 'inf' is not a number from 0.001 to 1e+06"),
        ([*SERVE, "--burstiness", "0"], "--burstiness: '0' is not a number from 0.001 to 1000"),
        ([*SERVE, "--timeout", "nan"], "--timeout: 'nan' is not a number from 0.001 to 86400"),
    ],
)
def test_a_wrong_number_is_named(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(words)
    assert message in capsys.readouterr().err


def test_numbers_that_are_right() -> None:
    found = parser().parse_args([*SERVE, "--rate", "0.5", "4", "--warmup", "0", "--concurrency", "8"])
    assert (found.rate, found.warmup, found.concurrency) == ([0.5, 4.0], 0, [8])
