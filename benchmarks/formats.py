"""What running each quantised format costs: perplexity against the same dequantised weights in transformers.

python -m benchmarks.formats BF16.gguf --llama-quantize PATH

The model is padded first, so that every matrix can be of any type (benchmarks/padded.py). llama.cpp's
`llama-quantize --pure` makes a GGUF file of each type, benchmarks/rounded.py a checkpoint of each other
method. Each is compiled and measured by `pagedc verify`: the reference is Hugging Face's module in float32 on
the weights that the file means. `held` counts the values of a package by the layout that holds them.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import record
from benchmarks.padded import pad
from benchmarks.rounded import METHODS, round_checkpoint

PLAIN = "BF16"  # the padded file itself
FILES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "MXFP4", "IQ4_XS")
OWN_WORDS = {
    # Of 2 bits alone nothing of a small model is left: the perplexity is 240,000. llama.cpp's own mix.
    "Q2_K": ([], "Q2_K"),
    # A file of this type is for experts only: llama.cpp must be told of the others.
    "MXFP4": (["--pure", "--tensor-type", ".*=mxfp4"], "MXFP4_MOE"),
}
ROUNDED = ("int8", "int4")  # of --quantize
MOST = 0.003  # change of perplexity


def main() -> None:
    """Measure, print and write; exit code 5 where a format misses a floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a GGUF file that is not quantised")
    parser.add_argument("--llama-quantize", default="llama-quantize", metavar="PATH")
    parser.add_argument("--only", nargs="*", default=(PLAIN, *FILES, *METHODS, *ROUNDED), metavar="FORMAT")
    options = parser.parse_args()
    figures = _known(options.model.name)
    for name in options.only:
        with TemporaryDirectory() as directory:
            padded = Path(directory) / "padded.gguf"
            pad(options.model, padded)
            figures[name] = found = _measure(name, padded, options.llama_quantize, Path(directory))
        print(
            f"{name:<23} perplexity {found['perplexity']:.4f} against {found['reference_perplexity']:.4f}: "
            f"off by {found['perplexity_change']:.3%}; "
            f"top-1 {found['top1_agreement']:.2%}, KL {found['mean_kl']:.6f}",
            flush=True,
        )
        record.write("formats", {"model": options.model.name, "formats": figures})
    sys.exit(5 if any(found["perplexity_change"] > MOST for found in figures.values()) else 0)


def _known(model: str) -> dict[str, Any]:
    """What an earlier run has measured of the same model: formats may be measured one by one."""
    path = record.RESULTS / "formats.json"
    found: dict[str, Any] = json.loads(path.read_text())["figures"] if path.exists() else {}
    return dict(found["formats"]) if found.get("model") == model else {}


def _measure(name: str, padded: Path, tool: str, directory: Path) -> dict[str, Any]:
    package = directory / "model.pagedc"
    model, against = _make(name, padded, tool, directory)
    words = ["--quantize", name] if name in ROUNDED else []
    _pagedc("compile", str(model), "-o", str(package), "--tune", "none", "--json", *words)
    held = _pagedc("inspect", str(package), "--json")["formats"]
    found = _pagedc("verify", str(package), "--against", str(against), "--json")
    worst = max(found.pop("modules").values(), default=0.0)
    for key in ("package", "against"):
        del found[key]
    return {"held": held, **found, "largest_module_error": worst}


def _make(name: str, padded: Path, tool: str, directory: Path) -> tuple[Path, Path]:
    """What is compiled, and what it is measured against."""
    if name == PLAIN or name in ROUNDED:
        return padded, padded
    if name in METHODS:
        model, plain = directory / "model", directory / "plain"
        round_checkpoint(padded, name, model, plain)
        return model, plain
    file = directory / "model.gguf"
    words, kind = OWN_WORDS.get(name, (["--pure"], name))
    subprocess.run([tool, *words, str(padded), str(file), kind], check=True, capture_output=True)
    return file, file


def _pagedc(*words: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "pagedc", *words], stdout=subprocess.PIPE, check=False)
    if not done.stdout:
        sys.exit(done.returncode)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    main()
