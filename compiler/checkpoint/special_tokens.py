"""Which tokens begin a text and end an answer, by the generation config or else the config."""

import json
from typing import Any, NamedTuple

from pagedc.compiler.checkpoint.base import Checkpoint
from pagedc.compiler.errors import CheckpointError


class SpecialTokens(NamedTuple):
    """Ids of a checkpoint's vocabulary."""

    bos: int | None
    eos: list[int]


def special_tokens(checkpoint: Checkpoint) -> SpecialTokens:
    """Raises CheckpointError for what is no id of the vocabulary."""
    try:
        generation = json.loads(checkpoint.tokenizer_files.get("generation_config.json", b"{}"))
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{checkpoint.source}: generation_config.json is not JSON") from error
    config = checkpoint.config.get_text_config()
    values: dict[str, Any] = {}
    for key in ("bos_token_id", "eos_token_id"):
        value = generation.get(key) if isinstance(generation, dict) else None
        values[key] = getattr(config, key, None) if value is None else value
    vocab_size = int(config.vocab_size)
    bos = _ids(checkpoint, "bos_token_id", values["bos_token_id"], vocab_size)
    return SpecialTokens(
        bos[0] if bos else None, _ids(checkpoint, "eos_token_id", values["eos_token_id"], vocab_size)
    )


def _ids(checkpoint: Checkpoint, key: str, value: Any, vocab_size: int) -> list[int]:
    """One id or several as a list without repetition. -1 stands for none in older files."""
    ids = value if isinstance(value, list) else [value]
    ids = [index for index in ids if index is not None and index != -1]
    for index in ids:
        if type(index) is not int or not 0 <= index < vocab_size:
            raise CheckpointError(
                f"{checkpoint.source}: {key} is {index!r}, no id of a vocabulary of {vocab_size}"
            )
    return list(dict.fromkeys(ids))
