"""The C++ compiler without its slow passes: half the time of a compile, and tests ask for no speed."""

import os
from pathlib import Path


def quick_compiler(directory: Path) -> str:
    """A program for $CXX, written to `directory`."""
    script = directory / "cxx"
    script.write_text(f'#!/bin/sh\nexec {os.environ.get("CXX") or "g++"} "$@" -O1\n')
    script.chmod(0o755)
    return str(script)
