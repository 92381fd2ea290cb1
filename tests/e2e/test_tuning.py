"""Tiles chosen by a tuning file: other text, the same tokens."""

from pathlib import Path

import pytest
from tests.e2e.conftest import compile_package
from tests.e2e.generation import generate, make_prompts

from pagedc.compiler.cli import main
from pagedc.compiler.tuning import TunedKernel, Tuning, dump_tuning
from pagedc.kernels.cpu.layout import parse_format
from pagedc.runtime.package import Package

ROWS = {"ONE_PANELS": 2, "TOKENS": 3, "PANELS": 2, "AHEAD": 0}


@pytest.mark.parametrize("tiny_package", ["bfloat16"], indirect=True)
def test_a_tuned_package_says_the_same(
    tiny_model: Path, tiny_package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (tiny_package / "model.cpp").read_text()
    assert "struct Tuned" not in text
    name = next(
        weight.format for weight in Package.open(tiny_package).manifest.weights if weight.format != "raw"
    )
    rows = [
        TunedKernel("linear", f"T={tokens} N={n} K={k} {name}", 2, "", constants=ROWS)
        for n, k in ((128, 64), (64, 64), (64, 96), (258, 64))
        for tokens in (1, 4)
    ]
    file = tmp_path / "tuning.json"
    file.write_bytes(dump_tuning(Tuning("a chip", "full", rows)))
    options = ("--random-weights", "--dtype", "bfloat16", "--tuning", str(file))
    tuned = compile_package(tiny_model, tmp_path / "tuned.pagedc", *options)
    kind = parse_format(name).cpp_type
    assert f"struct Tuned<{kind}, 128, 64> : Tile<{kind}> {{" in (tuned / "model.cpp").read_text()
    prompts = make_prompts(258, count=8)
    expected = generate(tiny_package, prompts, num_tokens=9)
    assert generate(tuned, prompts, num_tokens=9).outputs == expected.outputs

    # Tuned again, by a file that chooses nothing: the text that was never tuned, and a whole package.
    plain = tmp_path / "plain.json"
    plain.write_bytes(dump_tuning(Tuning("a chip", "none")))
    assert main(["tune", str(tuned), "--tuning", str(plain)]) == 0
    assert (tuned / "model.cpp").read_text() == text
    assert (tuned / "tuning.json").read_bytes() == plain.read_bytes()
    Package.open(tuned, verify=True)
    assert generate(tuned, prompts, num_tokens=9).outputs == expected.outputs

    (tuned / "model.cpp").unlink()
    assert main(["tune", str(tuned), "--tuning", str(plain)]) == 4
    assert "tuned.pagedc lacks model.cpp" in capsys.readouterr().err
