"""The sources that a package carries, made independent of pagedc: what they import lies beside them."""

from collections.abc import Iterable
from pathlib import Path

import pagedc.kernels.triton as triton_kernels
import pagedc.templates.cuda as cuda_templates
from pagedc.compiler.targets.cuda.kernels import Kernels
from pagedc.compiler.targets.cuda.launch_table import Binary
from pagedc.compiler.targets.cuda.rows_file import HELPERS, print_file

PREFIXES = {"pagedc.kernels.triton": "kernels", "pagedc.templates.cuda.launcher": "launcher"}


def kernel_sources(kernels: Kernels, binaries: Iterable[Binary]) -> dict[str, str]:
    """File → text: what `binaries` are compiled from, with the printed row kernels, and the launcher."""
    rows = relative(print_file(kernels.printed.values()))
    modules = {binary.module for binary in binaries} | set(HELPERS)
    return {"kernels/rows.py": rows} | package_sources(modules)


def package_sources(modules: set[str]) -> dict[str, str]:
    """File → text: the launcher, and the kernel files that `modules` need."""
    (kernels,) = map(Path, triton_kernels.__path__)
    (templates,) = map(Path, cuda_templates.__path__)
    needed = {"__init__", *_closure(modules, kernels)}
    files = {f"kernels/{name}.py": (kernels / f"{name}.py").read_text() for name in needed}
    files |= {f"launcher/{path.name}": path.read_text() for path in (templates / "launcher").glob("*.py")}
    return {name: relative(text) for name, text in sorted(files.items())}


def relative(text: str) -> str:
    """`from pagedc.kernels.triton.launch import …` → `from .launch import …`."""
    for prefix in PREFIXES:
        text = text.replace(f"from {prefix}.", "from .").replace(f"from {prefix} import", "from . import")
    return text


def _closure(modules: set[str], directory: Path) -> set[str]:
    """The modules, those that they import, and so on."""
    found: set[str] = set()
    rest = set(modules)
    while rest:
        name = rest.pop()
        path = directory / f"{name}.py"
        if name in found or not path.exists():
            continue
        found.add(name)
        for line in path.read_text().splitlines():
            if line.startswith("from pagedc.kernels.triton."):
                rest.add(line.split()[1].rsplit(".", 1)[-1])
    return found
