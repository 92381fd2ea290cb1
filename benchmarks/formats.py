"""What running each quantised format costs: perplexity against the same dequantised weights in transformers.

python -m benchmarks.formats BF16.gguf --llama-quantize PATH

Each file is made of the one given by llama.cpp's `llama-quantize --pure`, compiled, and measured by `pagedc
verify`: the reference is Hugging Face's module in float32 on the weights that the package holds. A file is of
one type but for rows that a K type's blocks of 256 do not divide: `tensors` counts them.
"""

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks import record

FILES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
ROUNDED = ("int8", "int4")  # of --quantize
MOST = 0.003  # change of perplexity


def main() -> None:
    """Measure, print and write; exit code 5 where a format misses a floor."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path, help="a GGUF file that is not quantised")
    parser.add_argument("--llama-quantize", default="llama-quantize", metavar="PATH")
    parser.add_argument("--only", nargs="*", default=(*FILES, *ROUNDED), metavar="FORMAT")
    options = parser.parse_args()
    figures = _known(options.model.name)
    for name in options.only:
        with TemporaryDirectory() as directory:
            figures[name] = found = _measure(name, options.model, options.llama_quantize, Path(directory))
        print(
            f"{name:<7} perplexity {found['perplexity']:.4f} against {found['reference_perplexity']:.4f}: "
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


def _measure(name: str, model: Path, tool: str, directory: Path) -> dict[str, Any]:
    file, package = directory / f"model-{name}.gguf", directory / "model.pagedc"
    words = ["compile", str(file), "-o", str(package), "--tune", "none", "--json"]
    if name in ROUNDED:
        file = model
        words[1:2] = [str(file), "--quantize", name]
    else:
        subprocess.run([tool, "--pure", str(model), str(file), name], check=True, capture_output=True)
    _pagedc(*words)
    found = _pagedc("verify", str(package), "--against", str(file), "--json")
    worst = max(found.pop("modules").values(), default=0.0)
    for key in ("package", "against"):
        del found[key]
    return {"tensors": _tensor_types(file), **found, "largest_module_error": worst}


def _pagedc(*words: str) -> dict[str, Any]:
    done = subprocess.run([sys.executable, "-m", "pagedc", *words], stdout=subprocess.PIPE, check=False)
    if not done.stdout:
        sys.exit(done.returncode)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _tensor_types(file: Path) -> dict[str, int]:
    from gguf import GGUFReader

    return dict(Counter(tensor.tensor_type.name for tensor in GGUFReader(file).tensors).most_common())


if __name__ == "__main__":
    main()
