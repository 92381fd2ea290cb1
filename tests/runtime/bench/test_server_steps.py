import pytest

from pagedc.runtime.bench import serving
from pagedc.runtime.bench.load import Load
from pagedc.runtime.bench.recording import address_of
from pagedc.runtime.bench.server_steps import Steps, is_this_machine, read_steps


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_the_loopback_is_this_machine(host: str) -> None:
    assert is_this_machine(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "example.org", "::2"])
def test_others_are_not(host: str) -> None:
    assert not is_this_machine(host)
    url = f"http://[{host}]:1" if ":" in host else f"http://{host}:1"
    assert read_steps(address_of(url, "/v1/completions"), "m") is None


def test_who_does_not_answer_has_no_steps() -> None:
    assert read_steps(address_of("http://127.0.0.1:9", "/v1/completions"), "m") is None


def test_an_engine_that_was_started_again_meanwhile_has_no_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([Steps(100, 5), Steps(3, 5)])
    monkeypatch.setattr(serving, "read_steps", lambda *_: next(found))
    monkeypatch.setattr(serving, "_offer", lambda *_: {"seconds": 1.0})
    (row,) = serving.measure_serving(
        address_of("http://127.0.0.1:9", "/v1/completions"),
        [],
        [Load()],
        model="m",
        chat=False,
        ignore_eos=True,
        objectives={},
        warmup=0,
        timeout=1.0,
        seed=0,
    )
    assert "steps" not in row
    assert row["seconds"] == 1.0
