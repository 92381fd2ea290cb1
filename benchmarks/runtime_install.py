"""What serving needs on a machine that compiles nothing: a wheel and the runtime's dependencies.

Builds the wheel, installs it into a fresh virtual environment, weighs site-packages, asks which of torch,
transformers and triton are there, and has that Python serve the package. Needs a package index.

python -m benchmarks.runtime_install [PACKAGE]
"""

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from benchmarks import record
from examples.serving import Server

COMPILER_ONLY = ("torch", "transformers", "triton", "safetensors", "gguf")
INSTALLERS = ("pip", "setuptools", "_distutils_hack", "wheel")  # what venv itself brings
PIP = ("-m", "pip", "--disable-pip-version-check", "-q")
QUESTION = "What is the capital of France?"


def install(folder: Path) -> Path:
    """A new environment with the wheel of this checkout; returns its Python."""
    wheels = folder / "wheels"
    build = [sys.executable, *PIP, "wheel", "--no-deps", "--no-build-isolation", "-w", str(wheels), "."]
    subprocess.run(build, check=True, cwd=Path(__file__).parents[1])
    venv.create(folder / "venv", with_pip=True)
    python = folder / "venv" / "bin" / "python"
    subprocess.run([python, *PIP, "install", next(wheels.glob("*.whl"))], check=True)
    return python


def megabytes(path: Path) -> float:
    """Disk space of a directory or file in units of 2^20 bytes, each block counted, as `du -sm` does."""
    files = [path, *path.rglob("*")]
    return sum(file.lstat().st_blocks * 512 for file in files) / 2**20


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, nargs="?", default=Path("build/smollm2-135m.pagedc"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        python = install(Path(folder))
        (site,) = (python.parents[1] / "lib").glob("python3*/site-packages")
        os.environ["PAGEDC_PYTHON"] = str(python)  # the launcher's choice
        with Server(options.package) as server:
            answer = "".join(piece.text for piece in server.chat(QUESTION, max_tokens=20))
        sizes = {path.name: megabytes(path) for path in site.iterdir()}
        figures = {
            "site_packages_mib": round(megabytes(site), 1),
            "of_that_installers_mib": round(sum(sizes.get(name, 0) for name in INSTALLERS), 1),
            "largest_mib": {
                name: round(size, 1) for name, size in sorted(sizes.items(), key=lambda item: -item[1])[:8]
            },
            "compiler_libraries_present": [name for name in COMPILER_ONLY if (site / name).exists()],
            "answer": answer,
        }
    print(f"site-packages            {figures['site_packages_mib']:.0f} MiB")
    print(f"torch, transformers, …   {figures['compiler_libraries_present'] or 'absent'}")
    print(f"answer                   {answer}")
    record.write("runtime_install", figures)


if __name__ == "__main__":
    main()
