"""Boot: from starting PACKAGE/serve to the first token of a request that is already waiting.

Interleaved with `python -c "import torch, transformers"`: what a runtime that needs them pays first.

python -m benchmarks.boot [PACKAGE] [--runs N]
"""

import argparse
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import record
from benchmarks.bytecode import write_bytecode
from examples.serving import Server

IMPORT = "import torch, transformers"


def boot_to_first_token(package: Path) -> float:
    """Seconds."""
    with Server(package) as server:
        pieces = server.chat("What is the capital of France?", max_tokens=4)
        first = next(piece.seconds for piece in pieces if piece.text)
        pieces.close()
        return first


def import_seconds() -> float | None:
    """Seconds of the import in a fresh interpreter; None where it is not installed."""
    begin = time.perf_counter()
    code = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, check=False).returncode
    return time.perf_counter() - begin if code == 0 else None


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, nargs="?", default=Path("build/smollm2-135m.pagedc"))
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    write_bytecode()
    boots, imports = [], []
    for _ in range(options.runs):
        boot_to_first_token(options.package)  # unmeasured: its files are in the page cache then
        boots.append(boot_to_first_token(options.package))
        imported = import_seconds()
        if imported is not None:
            imports.append(imported)
    figures = {"boot_to_first_token_seconds": record.summary(boots)}
    print(f"boot to first token      {figures['boot_to_first_token_seconds']['median']:.2f} s")
    if imports:
        figures["import_torch_transformers_seconds"] = record.summary(imports)
        print(f"{IMPORT:<24} {figures['import_torch_transformers_seconds']['median']:.2f} s")
    record.write("boot", figures)


if __name__ == "__main__":
    main()
