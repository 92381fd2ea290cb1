import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from pagedc.compiler.checkpoint.gguf_file import GGUFFile
from pagedc.compiler.checkpoint.gguf_tokenizer import gguf_tokenizer_files
from pagedc.compiler.checkpoint.pretokenizers import PRE_TOKENIZERS
from pagedc.compiler.errors import CheckpointError, UnsupportedError

WriteGguf = Callable[..., Path]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
PIECES = ["he", "ll", "hell", "hello", "Ġw", "12", "Ġ1", "ab"]
MERGES = ["h e", "l l", "he ll", "hell o", "Ġ w", "1 2", "Ġ 1", "a b"]
BYTES = sorted(ByteLevel.alphabet())
CODE = "def f(x):\n\treturn x  ** 2  # ½\r\n\n\n"
TEXTS = ["", " ", "hello world", "12345 + 678", "日本語 텍스트", "é̂ ½ ²", "😀👩‍👩‍👧", CODE, "I'll\u00a0go"]


def vocabulary(pre: str = "smollm", **changes: Any) -> dict[str, Any]:
    tokens = [*SPECIAL, *BYTES, *PIECES]
    return {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "merges": MERGES,
        "token_type": [3] * 3 + [1] * (len(tokens) - 3),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    } | changes


def files(write_gguf: WriteGguf, words: dict[str, Any], template: str | None = None) -> dict[str, bytes]:
    present = {key: value for key, value in words.items() if value is not None}
    metadata = {} if template is None else {"tokenizer.chat_template": template}
    return gguf_tokenizer_files(GGUFFile(write_gguf(metadata, {}, vocabulary=present)))


def tokenizer(write_gguf: WriteGguf, **changes: Any) -> Tokenizer:
    return Tokenizer.from_buffer(files(write_gguf, vocabulary(**changes))["tokenizer.json"])


def test_single_digits_are_cut_before_merging(write_gguf: WriteGguf) -> None:
    assert tokenizer(write_gguf).encode("12 123").tokens == ["1", "2", "Ġ", "1", "2", "3"]
    assert tokenizer(write_gguf, pre="gpt-2").encode("12 12").tokens == ["12", "Ġ", "12"]


@pytest.mark.parametrize("pre", PRE_TOKENIZERS)
def test_text_comes_back(write_gguf: WriteGguf, pre: str) -> None:
    encoder = tokenizer(write_gguf, pre=pre)
    normalized = PRE_TOKENIZERS[pre].nfc
    for text in TEXTS:
        ids = encoder.encode(text, add_special_tokens=False).ids
        if not normalized or text.isascii():
            assert encoder.decode(ids, skip_special_tokens=False) == text


@pytest.mark.parametrize(
    ("pre", "text", "cuts"),
    [
        ("gpt-2", "I'll pay 1234!", ["I", "'ll", "Ġpay", "Ġ1234", "!"]),
        ("smollm", "I'll pay 1234!", ["I", "'ll", "Ġpay", "Ġ", "1", "2", "3", "4", "!"]),
        ("llama-bpe", "I'LL pay 1234!", ["I", "'LL", "Ġpay", "Ġ", "123", "4", "!"]),
        ("qwen2", "I'LL pay 1234!\n\n", ["I", "'LL", "Ġpay", "Ġ", "1", "2", "3", "4", "!ĊĊ"]),
        ("gpt-4o", "HelloWorld's 1234/", ["Hello", "World's", "Ġ", "123", "4", "/"]),
        ("tekken", "HelloWorld 12", ["Hello", "World", "Ġ", "1", "2"]),
        ("deepseek-v3", "x=1234 あ", ["x", "=", "123", "4", "Ġ", "ãģĤ"]),
    ],
)
def test_cuts(write_gguf: WriteGguf, pre: str, text: str, cuts: list[str]) -> None:
    pre_tokenizer = tokenizer(write_gguf, pre=pre).pre_tokenizer
    assert [piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)] == cuts


def test_special_tokens_are_one_token_each(write_gguf: WriteGguf) -> None:
    encoding = tokenizer(write_gguf).encode("<|im_start|>hello<|im_end|>")
    assert encoding.tokens == ["<|im_start|>", "hello", "<|im_end|>"]


@pytest.mark.parametrize(
    ("add_bos", "tokens"), [(True, ["<|im_start|>", "hello"]), (False, ["hello"]), (None, ["hello"])]
)
def test_bos_where_the_file_wants_it(write_gguf: WriteGguf, add_bos: bool | None, tokens: list[str]) -> None:
    assert tokenizer(write_gguf, add_bos_token=add_bos).encode("hello").tokens == tokens


def test_companions(write_gguf: WriteGguf) -> None:
    made = files(write_gguf, vocabulary(eot_token_id=0), "{{ messages }}<|im_end|>")
    config = json.loads(made["tokenizer_config.json"])
    assert (config["bos_token"], config["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert json.loads(made["generation_config.json"]) == {"bos_token_id": 1, "eos_token_id": [2, 0]}
    assert made["chat_template.jinja"] == b"{{ messages }}<|im_end|>"
    assert "chat_template.jinja" not in files(write_gguf, vocabulary())


def test_a_turn_s_end_ends_the_answer(write_gguf: WriteGguf) -> None:
    made = files(write_gguf, vocabulary(eos_token_id=0), "{{ messages }}<|im_end|>")
    assert json.loads(made["generation_config.json"])["eos_token_id"] == [0, 2]


def test_same_bytes_each_time(write_gguf: WriteGguf) -> None:
    assert files(write_gguf, vocabulary()) == files(write_gguf, vocabulary())


def sentencepiece(**changes: Any) -> dict[str, Any]:
    tokens = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        "h",
        "e",
        "l",
        "o",
        "▁h",
    ]
    tokens += ["ll", "▁he", "llo", "▁hello"]
    return {
        "model": "llama",
        "tokens": tokens,
        "scores": [0.0] * 259 + [-float(index) for index in range(len(tokens) - 259, 0, -1)],
        "token_type": [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259),
        "bos_token_id": 1,
        "eos_token_id": 2,
        "unknown_token_id": 0,
    } | changes


def test_sentencepiece_merges_by_score(write_gguf: WriteGguf) -> None:
    encoder = Tokenizer.from_buffer(files(write_gguf, sentencepiece())["tokenizer.json"])
    assert encoder.encode("hello").tokens == ["<s>", "▁hello"]
    assert encoder.encode("hello é").tokens == ["<s>", "▁hello", "▁", "<0xC3>", "<0xA9>"]
    for text in ("hello é", "ll  o", "😀\n"):
        assert encoder.decode(encoder.encode(text).ids) == text


def test_sentencepiece_without_a_space_in_front(write_gguf: WriteGguf) -> None:
    words = sentencepiece(add_space_prefix=False, add_bos_token=False)
    encoder = Tokenizer.from_buffer(files(write_gguf, words)["tokenizer.json"])
    assert encoder.encode("hello").tokens == ["h", "e", "llo"]
    assert encoder.decode(encoder.encode("hello").ids) == "hello"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": "bert"}, UnsupportedError, "a vocabulary of kind 'bert'"),
        ({"pre": "unheard-of"}, UnsupportedError, "pre-tokenizer 'unheard-of' is not known"),
        ({"tokens": None}, CheckpointError, "no vocabulary"),
        ({"tokens": [1, 2, 3]}, CheckpointError, "not a list of strings"),
        ({"tokens": "abc"}, CheckpointError, "is a str, not a list"),
        ({"token_type": [1, 2]}, CheckpointError, "267 tokens but 2 token types"),
        ({"merges": None}, CheckpointError, "without merges"),
        ({"merges": ["x y z"]}, CheckpointError, "cannot be read"),
        ({"merges": ["he nothere"]}, CheckpointError, "cannot be read"),
        ({"bos_token_id": 9999}, CheckpointError, "bos_token_id is 9999"),
        ({"eos_token_id": "two"}, CheckpointError, "is a str, not a int"),
        ({"model": "llama", "scores": [1.0]}, CheckpointError, "267 tokens but 1 scores"),
    ],
)
def test_vocabularies_that_do_not_fit_are_one_line(
    write_gguf: WriteGguf, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as raised:
        files(write_gguf, vocabulary(**changes))
    assert "\n" not in str(raised.value)
