import json
from pathlib import Path
from typing import Any

import pytest
from tests.compiler.checkpoint.models import SIZES

from pagedc.compiler.checkpoint import open_checkpoint
from pagedc.compiler.checkpoint.config_file import read_config
from pagedc.compiler.errors import CheckpointError, UnsupportedError


def write(directory: Path, **values: Any) -> Path:
    path = directory / "config.json"
    path.write_text(json.dumps({"model_type": "llama", **SIZES, **values}))
    return path


def test_remote_code_is_refused(tmp_path: Path) -> None:
    write(tmp_path, model_type="evil", auto_map={"AutoConfig": "evil.EvilConfig"})
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    with pytest.raises(UnsupportedError, match=r"auto_map.* which pagedc never runs") as error:
        open_checkpoint(str(tmp_path))
    assert "\n" not in str(error.value)


def test_code_beside_a_known_type_is_not_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path, auto_map={"AutoConfig": "evil.EvilConfig"})
    (tmp_path / "evil.py").write_text("raise SystemExit('ran')")
    assert type(read_config(path)).__name__ == "LlamaConfig"
    assert "auto_map" in caplog.text


def test_unknown_type_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="nothing: not a model type of the installed transformers"):
        read_config(write(tmp_path, model_type="nothing"))


@pytest.mark.parametrize("model_type", [None, 7, "", ["llama"]])
def test_no_type_is_refused(tmp_path: Path, model_type: Any) -> None:
    with pytest.raises(CheckpointError, match="no model_type"):
        read_config(write(tmp_path, model_type=model_type))


def test_quantised_weights_are_refused_before_they_are_looked_for(tmp_path: Path) -> None:
    path = write(tmp_path, quantization_config={"quant_method": "quip"})
    with pytest.raises(UnsupportedError, match="quantised by 'quip'"):
        open_checkpoint(str(tmp_path))
    assert not hasattr(read_config(path, weights=False), "quantization_config")


@pytest.mark.parametrize(
    "values",
    [
        {"hidden_size": "wide"},
        {"hidden_size": -1},
        {"hidden_size": 0},
        {"vocab_size": -5},
        {"vocab_size": 2**62},
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 0},
        {"num_hidden_layers": None},
        {"num_attention_heads": 0},
        {"num_key_value_heads": 0},
        {"head_dim": 0},
        {"pad_token_id": 10**9},
        {"hidden_act": "evil"},
        {"rope_scaling": {"rope_type": "evil"}},
        {"rope_scaling": [1]},
        {"torch_dtype": "evil"},
        {"text_config": {"a": 1}},
    ],
    ids=str,
)
def test_values_that_make_no_model_are_one_line(tmp_path: Path, values: dict[str, Any]) -> None:
    write(tmp_path, **values)
    with pytest.raises((CheckpointError, UnsupportedError)) as error:
        open_checkpoint(str(tmp_path), random_weights=True)
    assert "\n" not in str(error.value)


def test_no_config_says_what_model_may_be(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json in it"):
        open_checkpoint(str(tmp_path))
