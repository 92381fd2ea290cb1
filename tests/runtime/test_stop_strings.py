import pytest
from hypothesis import given
from hypothesis import strategies as st

from pagedc.runtime.stop_strings import StopStrings

LETTERS = st.text("ab", max_size=30)


def reference(text: str, strings: list[str]) -> tuple[str, str | None]:
    for end in range(1, len(text) + 1):
        ends = [string for string in strings if text[:end].endswith(string)]
        if ends:
            longest = max(ends, key=len)
            return text[: end - len(longest)], longest
    return text, None


@given(st.lists(LETTERS), st.lists(st.text("ab", min_size=1, max_size=5), min_size=1, max_size=4))
def test_the_cuts_make_no_difference(pieces: list[str], strings: list[str]) -> None:
    stop = StopStrings(strings)
    shown = ""
    for piece in pieces:
        shown += stop.feed(piece)
        whole, matched = reference("".join(pieces), strings)
        assert whole.startswith(shown)
    assert (shown + stop.finish(), stop.matched) == (whole if pieces else "", matched if pieces else None)


def test_only_what_may_be_part_of_one_is_held_back() -> None:
    stop = StopStrings(["\n\nUser:"])
    assert stop.feed("Hello\n") == "Hello"
    assert stop.feed("\nUs") == ""
    assert stop.feed("e\n") == "\n\nUse"
    assert stop.feed("\nUser: x") == ""
    assert stop.matched == "\n\nUser:"
    assert stop.feed("more") == ""
    assert stop.finish() == ""


def test_the_match_may_stay_in_the_text() -> None:
    stop = StopStrings(["END"], include=True)
    assert stop.feed("the E") == "the "
    assert stop.feed("ND of") == "END"
    assert stop.matched == "END"


def test_an_unfinished_one_is_text() -> None:
    stop = StopStrings(["END"])
    assert stop.feed("the EN") + stop.finish() == "the EN"


def test_the_empty_string_stops_nothing() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopStrings(["a", ""])
