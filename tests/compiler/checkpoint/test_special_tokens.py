import json
from pathlib import Path
from typing import Any

import pytest
from tests.compiler.checkpoint.models import SIZES

from pagedc.compiler.checkpoint import SpecialTokens, open_checkpoint, special_tokens
from pagedc.compiler.errors import CheckpointError


def read(directory: Path, generation: dict[str, Any] | None, **config: Any) -> SpecialTokens:
    values = {"model_type": "llama", **SIZES, **config}
    (directory / "config.json").write_text(json.dumps(values))
    if generation is not None:
        (directory / "generation_config.json").write_text(json.dumps(generation))
    return special_tokens(open_checkpoint(str(directory), random_weights=True))


def test_generation_config_comes_first(tmp_path: Path) -> None:
    assert read(tmp_path, {"eos_token_id": [2, 7, 2]}) == SpecialTokens(1, [2, 7])


def test_config_is_used_without_it(tmp_path: Path) -> None:
    assert read(tmp_path, None) == SpecialTokens(1, [2])
    assert read(tmp_path, {}, eos_token_id=[2, 3], bos_token_id=None) == SpecialTokens(None, [2, 3])


@pytest.mark.parametrize("value", [96, -7, "two", 1.5, True, [2, 10**9]])
def test_what_is_no_token_is_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(CheckpointError, match="no id of a vocabulary of 96"):
        read(tmp_path, {"eos_token_id": value})
