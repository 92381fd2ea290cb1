"""What a compile may be asked for."""

from pathlib import Path
from typing import Any

import pytest

from pagedc.compiler.errors import OptionError
from pagedc.compiler.options import CompileOptions, default_output


@pytest.mark.parametrize(
    ("model", "output"),
    [
        ("smollm2-135m", "smollm2-135m.pagedc"),
        ("HuggingFaceTB/SmolLM2-135M", "SmolLM2-135M.pagedc"),
        ("models/q4.gguf", "q4.pagedc"),
        ("models/dir/", "dir.pagedc"),
    ],
)
def test_default_output_is_named_after_the_model(model: str, output: str) -> None:
    assert default_output(model) == Path(output)


def test_default_output_of_this_directory_is_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert default_output(".") == Path(tmp_path.name + ".pagedc")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": ""}, "model is empty"),
        ({"target": "tpu"}, "target is 'tpu', not one of: cpu"),
        ({"dtype": "float64"}, "dtype is 'float64'"),
        ({"quantize": "int3"}, "quantize is 'int3'"),
        ({"cpu": "i386"}, "cpu is 'i386'"),
        ({"max_model_len": 0}, r"max_model_len is 0, not in \[1, 16777216\]"),
        ({"max_num_seqs": -1}, "max_num_seqs is -1"),
        ({"kv_cache_dtype": "fp4"}, "kv_cache_dtype is 'fp4'"),
        ({"kv_cache_dtype": "fp8"}, "kv_cache_dtype is fp8, which is for GPUs"),
        ({"threads": 1.5}, "threads is 1.5, not a whole number"),
        ({"max_num_seqs": 64, "max_num_batched_tokens": 32}, "below max_num_seqs"),
    ],
)
def test_wrong_options_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        CompileOptions(**({"model": "m", "output": Path("out")} | options))
