"""Adapters that are wrong in themselves, whatever model they are for."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save_file

from pagedc.compiler.adapter import WEIGHTS, read_adapter
from pagedc.compiler.errors import CheckpointError, CompileError, UnsupportedError
from pagedc.compiler.model_name import ADAPTER as CONFIG

REFUSE = """
import sys
from pagedc.compiler.cli import main
code, *words = sys.argv[1:]
assert main(words) == int(code)
assert "torch" not in sys.modules
"""
Q = "base_model.model.model.layers.0.self_attn.q_proj"
A, B = f"{Q}.lora_A.weight", f"{Q}.lora_B.weight"


def tensors(**shapes: tuple[int, ...]) -> dict[str, NDArray[Any]]:
    return {f"{Q}.{role}": np.zeros(shape, np.float32) for role, shape in shapes.items()}


PAIR = tensors(lora_A=(4, 32), lora_B=(48, 4))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    change(tmp_path / "adapter", peft_type="LORA")
    save_file(PAIR, tmp_path / "adapter" / WEIGHTS)
    return tmp_path / "adapter"


def change(directory: Path, **values: Any) -> None:
    directory.mkdir(exist_ok=True)
    path = directory / CONFIG
    path.write_text(json.dumps((json.loads(path.read_text()) if path.exists() else {}) | values))


def refusal(text: str | Path, kind: type[CompileError] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        read_adapter(str(text))
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_it_changes(directory: Path) -> None:
    change(directory, lora_alpha=12, alpha_pattern={"layers.1.q_proj|k_proj": 2}, use_rslora=None)
    found = read_adapter(f"french={directory}")
    assert (found.name, read_adapter(str(directory)).name) == ("french", "adapter")
    ((name, changed),) = found.changes.items()
    assert (name, changed.shape(found.config)) == ("model.layers.0.self_attn.q_proj.weight", (48, 32))
    assert (found.config.scale("layers.1.v_proj", 4), found.config.scale("layers.1.k_proj", 4)) == (3, 0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"peft_type": "IA3"}, "an adapter of type 'IA3'; pagedc merges LORA"),
        ({"init_lora_weights": "pissa_niter_4"}, "it belongs to weights that PEFT changed first"),
        ({"alora_invocation_tokens": [1, 2]}, "it changes a model from these tokens on"),
    ],
)
def test_what_cannot_be_merged_is_unsupported(directory: Path, values: dict[str, Any], message: str) -> None:
    change(directory, **values)
    assert message in refusal(directory, UnsupportedError)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lora_alpha": "x"}, "got `str` - at `$.lora_alpha`"),
        ({"alpha_pattern": ["q_proj"]}, "got `array` - at `$.alpha_pattern`"),
        ({"alpha_pattern": {"(": 1}}, "unterminated subpattern"),
    ],
)
def test_a_config_that_says_nothing_of_use(directory: Path, values: dict[str, Any], message: str) -> None:
    change(directory, **values)
    assert message in refusal(directory)


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({}, "it holds no tensor, and would change nothing"),
        (tensors(lora_A=(4, 32)), "q_proj.weight has lora_A alone"),
        (tensors(lora_A=(4, 32), lora_magnitude_vector=(48,)), "has lora_A, lora_magnitude_vector alone"),
        (tensors(lora_A=(4, 32), lora_B=(48, 8)), "do not fit together: lora_A [4, 32], lora_B [48, 8]"),
        (tensors(lora_A=(4,), lora_B=(48, 4)), "do not fit together: lora_A [4], lora_B [48, 4]"),
        (tensors(lora_A=(0, 32), lora_B=(48, 0)), "do not fit together"),
        (PAIR | tensors(lora_magnitude_vector=(32,)), "do not fit together"),
        (PAIR | tensors(weight=(32, 48)), "do not fit together"),
    ],
)
def test_parts_that_make_no_change(directory: Path, held: dict[str, NDArray[Any]], message: str) -> None:
    save_file(held, directory / WEIGHTS)
    assert message in refusal(directory)


def test_codes_are_no_adapter(directory: Path) -> None:
    save_file({key: value.astype(np.int8) for key, value in PAIR.items()}, directory / WEIGHTS)
    assert "lora_A is stored as I8" in refusal(directory, UnsupportedError)


def test_without_weights(directory: Path) -> None:
    (directory / WEIGHTS).write_bytes(b"x")
    assert "not a whole safetensors file" in refusal(directory)
    (directory / WEIGHTS).unlink()
    assert refusal(directory).startswith(f"{directory}: no {WEIGHTS} in it;")
    (directory / "adapter_model.bin").write_bytes(b"x")
    assert "only adapter_model.bin, a pickle file" in refusal(directory)


@pytest.mark.parametrize(("text", "message"), [("=x", "NAME=DIR"), ("x=", "NAME=DIR"), ("", "NAME=DIR")])
def test_half_an_option(text: str, message: str) -> None:
    assert message in refusal(text)


@pytest.mark.parametrize(
    ("lora", "code", "message"),
    [
        ("missing", 2, "missing: no such directory; --lora is the directory of a PEFT adapter"),
        (".", 2, ".: no adapter_config.json in it; --lora is"),
        ("french=adapter", 3, "an adapter of type 'IA3'"),
    ],
)
def test_a_wrong_adapter_is_refused_before_torch_is_imported(
    lora: str, code: int, message: str, directory: Path
) -> None:
    change(directory, peft_type="IA3")
    words = [str(code), "compile", "smollm2-135m", "--lora", lora]
    command = [sys.executable, "-c", REFUSE, *words]
    done = subprocess.run(command, cwd=directory.parent, capture_output=True, text=True, check=True)
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
