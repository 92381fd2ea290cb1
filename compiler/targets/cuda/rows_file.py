"""The file of a package that holds its printed row kernels."""

from collections.abc import Iterable

from pagedc.compiler.program import Program
from pagedc.compiler.rows.kernel import RowKernel
from pagedc.compiler.targets.cuda.expressions import MATH
from pagedc.compiler.targets.cuda.row_printer import origin_lines, print_body, print_signature

HEADER = '''"""Row kernels: all between two anchors, for one token a program."""

import triton
import triton.language as tl
'''


def print_program(program: Program, epilogues: dict[str, str]) -> str:
    """The rows.py of a program: its row kernels, and the epilogues of its linears, printed already."""
    kernels = [(f.name, f.kernel, f.origins) for f in program.row_functions if not f.width]
    return print_rows(kernels, epilogues.values())


def print_rows(kernels: Iterable[tuple[str, RowKernel, list[str]]], epilogues: Iterable[str] = ()) -> str:
    """The text of rows.py: each kernel by its name, behind the modules that it stands for."""
    texts = []
    for name, kernel, origins in kernels:
        lines = [*origin_lines(origins), "@triton.jit", print_signature(kernel, name), print_body(kernel)]
        texts.append("\n".join(lines) + "\n")
    texts += [f"{epilogue}\n" for epilogue in epilogues]
    body = "\n\n".join(texts)
    used = [name for name in sorted(MATH) if f"{name}(" in body]
    imports = "\nfrom pagedc.kernels.triton.device import let_next_start, wait_for_inputs\n"
    if "split_stripes(" in body:
        imports += "from pagedc.kernels.triton.linear_tile import split_stripes\n"
    imports += f"from pagedc.kernels.triton.row_math import {', '.join(used)}\n" if used else ""
    return f"{HEADER}{imports}\n\n{body}"
