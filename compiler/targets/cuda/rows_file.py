"""The file of a package that holds its printed row kernels."""

import re
from collections.abc import Iterable

from pagedc.compiler.rows.kernel import RowKernel
from pagedc.compiler.targets.cuda.expressions import MATH
from pagedc.compiler.targets.cuda.row_printer import print_body, print_signature

HEADER = '''"""Row kernels: all between two anchors, for one token a program."""

import triton
import triton.language as tl
'''


def print_rows(kernels: Iterable[tuple[str, RowKernel, list[str]]]) -> str:
    """The text of rows.py: each kernel by its name, behind the modules that it stands for."""
    texts = []
    for name, kernel, origins in kernels:
        lines = [f"# {origin}" for origin in dict.fromkeys(re.sub(r"\.\d+\b", ".*", o) for o in origins)]
        lines += ["@triton.jit", print_signature(kernel, name), print_body(kernel)]
        texts.append("\n".join(lines) + "\n")
    body = "\n\n".join(texts)
    used = [name for name in sorted(MATH) if f"{name}(" in body]
    imports = "\nfrom pagedc.kernels.triton.device import let_next_start, wait_for_inputs\n"
    imports += f"from pagedc.kernels.triton.row_math import {', '.join(used)}\n" if used else ""
    return f"{HEADER}{imports}\n\n{body}"
