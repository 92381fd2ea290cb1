"""The tokenizer of a Hugging Face directory as the four files that a package carries."""

import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer

from pagedc.compiler.checkpoint.base import TOKENIZER_FILES
from pagedc.compiler.checkpoint.shards import first_line, read_json
from pagedc.compiler.errors import CheckpointError

logger = logging.getLogger(__name__)
OLDER_FORMATS = ("tokenizer.model", "vocab.json", "spiece.model", "vocab.txt")


def read_tokenizer_files(directory: Path) -> dict[str, bytes]:
    """The files that exist; an older vocabulary is converted, a template in a config becomes a file."""
    files = {
        name: (directory / name).read_bytes() for name in TOKENIZER_FILES if (directory / name).is_file()
    }
    if "tokenizer.json" not in files and any((directory / name).is_file() for name in OLDER_FORMATS):
        files |= _converted(directory)
    if "tokenizer.json" in files:
        check_tokenizer(directory, files["tokenizer.json"])
    if "chat_template.jinja" not in files and (template := _template(directory)):
        files["chat_template.jinja"] = template.encode()
    return {name: files[name] for name in TOKENIZER_FILES if name in files}


def _converted(directory: Path) -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                directory, trust_remote_code=False, local_files_only=True
            )
            tokenizer.save_pretrained(folder)
        except Exception as error:  # each format has its own converter with its own errors
            logger.warning("%s: its tokenizer cannot be converted: %s", directory, first_line(error))
            return {}
        paths = (Path(folder, name) for name in ("tokenizer.json", "tokenizer_config.json"))
        return {path.name: path.read_bytes() for path in paths if path.is_file()}


def _template(directory: Path) -> str | None:
    for name in ("chat_template.json", "tokenizer_config.json"):
        if (directory / name).is_file():
            template = default_template(read_json(directory / name).get("chat_template"))
            if template is not None:
                return template
    return None


def check_tokenizer(path: Path, data: bytes) -> None:
    """Raises CheckpointError where tokenizers cannot read it: better now than when it serves."""
    try:
        Tokenizer.from_buffer(data)
    except Exception as error:  # tokenizers raises plain Exception
        raise CheckpointError(f"{path}: its tokenizer cannot be read: {first_line(error)}") from error


def default_template(value: Any) -> str | None:
    """A template, or the default one of a list of named templates."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        named = {entry.get("name"): entry.get("template") for entry in value if isinstance(entry, dict)}
        return default_template(named.get("default"))
    return None


def dump_json(value: Any) -> bytes:
    """JSON as a package carries it: readable, the same bytes for the same value."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
