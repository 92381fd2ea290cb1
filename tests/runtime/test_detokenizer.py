import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.runtime.test_tokenizer import tokenizer_of
from tests.runtime.tokenizers_of_all_kinds import KINDS

from pagedc.runtime.detokenizer import Detokenizer

TEXT = st.text(st.characters(codec="utf-8"), max_size=40) | st.text(
    "the and\nü日\U0001f600<|im_end|>", max_size=60
)


def chunks_of(token_ids: list[int], sizes: list[int]) -> list[list[int]]:
    chunks = []
    for size in sizes:
        chunks.append(token_ids[:size])
        token_ids = token_ids[size:]
    return [*chunks, token_ids]


@given(TEXT, st.lists(st.integers(0, 5)))
@pytest.mark.parametrize("kind", ["byte_level", "sentencepiece"])
def test_a_stream_is_the_text_in_whole_characters(kind: str, text: str, sizes: list[int]) -> None:
    tokenizer = tokenizer_of(kind)
    token_ids = tokenizer.encode(text, add_special_tokens=False, parse_special=False)
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.add(chunk) for chunk in chunks_of(token_ids, sizes)]
    assert "\ufffd" not in "".join(pieces) or "\ufffd" in text
    whole = "".join(pieces) + detokenizer.finish()
    # SentencePiece puts a space before a text; a continued one keeps it.
    assert whole == (" " + text if kind == "sentencepiece" and token_ids else text)


@given(st.lists(st.integers(0, 300)), st.lists(st.integers(0, 5)))
@pytest.mark.parametrize("kind", KINDS)
def test_any_tokens_in_any_chunks_give_the_same(kind: str, token_ids: list[int], sizes: list[int]) -> None:
    tokenizer = tokenizer_of(kind)
    one_by_one, chunked = Detokenizer(tokenizer), Detokenizer(tokenizer)
    expected = "".join(one_by_one.add([each]) for each in token_ids) + one_by_one.finish()
    assert "".join(chunked.add(chunk) for chunk in chunks_of(token_ids, sizes)) + chunked.finish() == expected
    if kind == "byte_level":
        assert expected == tokenizer.decode(token_ids)


def test_a_decoder_that_looks_at_its_neighbours() -> None:
    tokenizer = tokenizer_of("word_piece")
    token_ids = tokenizer.encode("hello worldly, the ab. hello the world! hello", add_special_tokens=False)
    detokenizer = Detokenizer(tokenizer)
    pieces = [detokenizer.add([each]) for each in token_ids]
    assert "".join(pieces) + detokenizer.finish() == tokenizer.decode(token_ids)
    continued = Detokenizer(tokenizer, prompt_token_ids=token_ids[:1])
    assert continued.add(token_ids[1:2]) == " world"


def test_special_tokens_are_skipped_or_shown() -> None:
    tokenizer = tokenizer_of("byte_level")
    token_ids = tokenizer.encode("a<|im_end|>b")
    assert Detokenizer(tokenizer).add(token_ids) == "ab"
    assert Detokenizer(tokenizer, skip_special_tokens=False).add(token_ids) == "<s>a<|im_end|>b"


def test_a_character_that_never_comes_to_its_end() -> None:
    tokenizer = tokenizer_of("byte_level")
    first, *_ = tokenizer.encode("\U0001f600", add_special_tokens=False)
    detokenizer = Detokenizer(tokenizer)
    assert detokenizer.add([first]) == ""
    assert detokenizer.add([first]) == "\ufffd"
    assert detokenizer.finish() == "\ufffd"


def test_stop_strings_end_the_text() -> None:
    tokenizer = tokenizer_of("byte_level")
    token_ids = tokenizer.encode("the end and more", add_special_tokens=False)
    detokenizer = Detokenizer(tokenizer, stop=[" and", "nothing"])
    assert "".join(detokenizer.add([each]) for each in token_ids) + detokenizer.finish() == "the end"
    assert detokenizer.stop_string == " and"
    kept = Detokenizer(tokenizer, stop=[" and"], include_stop=True)
    assert kept.add(token_ids) == "the end and"
    assert Detokenizer(tokenizer).stop_string is None


def test_what_was_held_back_comes_at_the_end() -> None:
    tokenizer = tokenizer_of("byte_level")
    detokenizer = Detokenizer(tokenizer, stop=["and more"])
    assert detokenizer.add(tokenizer.encode("the and mo", add_special_tokens=False)) == "the "
    assert detokenizer.finish() == "and mo"
