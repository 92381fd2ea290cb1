import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from pagedc.compiler.checkpoint.tokenizer_files import read_tokenizer_files
from pagedc.compiler.errors import CheckpointError


def write(directory: Path, name: str, value: Any) -> bytes:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    (directory / name).write_bytes(data)
    return data


@pytest.fixture
def tokenizer(tmp_path: Path) -> bytes:
    return write(tmp_path, "tokenizer.json", Tokenizer(WordLevel({"a": 0}, unk_token="a")).to_str().encode())


def test_files_are_taken_as_they_are(tmp_path: Path, tokenizer: bytes) -> None:
    config = write(tmp_path, "tokenizer_config.json", {"chat_template": "old"})
    write(tmp_path, "chat_template.jinja", b"new")
    write(tmp_path, "evil.py", b"raise SystemExit")
    assert read_tokenizer_files(tmp_path) == {
        "tokenizer.json": tokenizer,
        "tokenizer_config.json": config,
        "chat_template.jinja": b"new",
    }


@pytest.mark.parametrize(
    ("name", "template"),
    [
        ("tokenizer_config.json", "{{ x }}"),
        ("chat_template.json", "{{ x }}"),
        (
            "tokenizer_config.json",
            [{"name": "tool_use", "template": "y"}, {"name": "default", "template": "{{ x }}"}],
        ),
    ],
)
def test_template_in_a_config_becomes_a_file(
    tmp_path: Path, tokenizer: bytes, name: str, template: Any
) -> None:
    write(tmp_path, name, {"chat_template": template})
    assert read_tokenizer_files(tmp_path)["chat_template.jinja"] == b"{{ x }}"


@pytest.mark.parametrize("template", [None, 7, [], [{"name": "rag", "template": "y"}], ["x"]])
def test_no_template(tmp_path: Path, tokenizer: bytes, template: Any) -> None:
    write(tmp_path, "tokenizer_config.json", {"chat_template": template})
    assert "chat_template.jinja" not in read_tokenizer_files(tmp_path)


def test_older_vocabulary_is_converted(tmp_path: Path) -> None:
    write(tmp_path, "vocab.json", {"h": 0, "e": 1, "he": 2, "<|endoftext|>": 3})
    write(tmp_path, "merges.txt", b"#version: 0.2\nh e\n")
    write(tmp_path, "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"})
    write(tmp_path, "config.json", {"model_type": "gpt2"})
    made = read_tokenizer_files(tmp_path)["tokenizer.json"]
    assert Tokenizer.from_buffer(made).encode("hehe").tokens == ["he", "he"]


def test_no_tokenizer_at_all(tmp_path: Path) -> None:
    assert read_tokenizer_files(tmp_path) == {}


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff"])
def test_broken_tokenizer_is_one_line(tmp_path: Path, data: bytes) -> None:
    write(tmp_path, "tokenizer.json", data)
    with pytest.raises(CheckpointError, match="its tokenizer cannot be read") as error:
        read_tokenizer_files(tmp_path)
    assert "\n" not in str(error.value)
