import json

import pytest
from tests.runtime.tokenizers_of_all_kinds import KINDS
from tokenizers import Tokenizer, models

from pagedc.compiler.tokenizer_form import fast_form

TEXT = "the and in g\n <|im_start|> Grüße 日本 12"


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_same_tokenizer(kind: str) -> None:
    data = KINDS[kind]().to_str(pretty=True).encode()
    before, after = Tokenizer.from_buffer(data), Tokenizer.from_buffer(fast_form(data))
    assert after.to_str() == before.to_str()
    assert after.encode(TEXT).ids == before.encode(TEXT).ids


def test_merges_are_strings_whatever_they_were() -> None:
    tokenizer = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    data = tokenizer.to_str(pretty=True).encode()
    fast = fast_form(data)
    assert json.loads(fast)["model"]["merges"] == ["a b"]
    assert list(json.loads(fast)["model"]["vocab"]) == ["a", "ab", "b"]
    assert fast_form(fast) == fast


@pytest.mark.parametrize("left", [" ", "#version"])
def test_merges_that_a_string_cannot_say_stay(left: str) -> None:
    data = Tokenizer(models.BPE({left: 0, "b": 1, left + "b": 2}, [(left, "b")])).to_str().encode()
    assert fast_form(data) == data
    as_string = json.loads(data)
    as_string["model"]["merges"] = [f"{left} b"]
    try:
        other = Tokenizer.from_str(json.dumps(as_string)).to_str()
    except Exception:  # tokenizers raises plain Exception
        return
    assert other != Tokenizer.from_buffer(data).to_str()
