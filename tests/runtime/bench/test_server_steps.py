import pytest

from pagedc.runtime.bench.recording import address_of
from pagedc.runtime.bench.server_steps import is_this_machine, read_steps


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
