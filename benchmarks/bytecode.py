"""Bytecode of the runtime, as pip leaves it when it installs."""

import compileall
from pathlib import Path

import pagedc


def write_bytecode() -> None:
    """A clone has none of what was edited until it has run, and never gets any where Python is told to write
    none: a start would then spend a quarter of its time on compiling its own source.
    """
    package = Path(pagedc.__file__).parent
    compileall.compile_dir(package, maxlevels=0, quiet=1)
    compileall.compile_dir(package / "runtime", quiet=1)
