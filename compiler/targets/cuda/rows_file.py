"""The file of a package that holds its printed row kernels."""

from collections.abc import Iterable

from pagedc.compiler.rows.kernel import RowKernel
from pagedc.compiler.targets.cuda.cache_stores import CacheStore
from pagedc.compiler.targets.cuda.expressions import MATH
from pagedc.compiler.targets.cuda.row_printer import origin_lines, print_body, print_signature

HELPERS = {  # files of kernels/triton, and what printed functions may call of them
    "device": ("let_next_start", "wait_for_inputs"),
    "kv_cache": ("place_of_elements",),
    "linear_tile": ("split_stripes",),
    "row_math": MATH,
}
HEADER = '''"""Row kernels: all between two anchors, for one token a program."""

import triton
import triton.language as tl
'''


def print_row_kernel(
    name: str, kernel: RowKernel, origins: list[str], store: CacheStore | None = None
) -> str:
    """A row kernel behind the modules that it stands for."""
    signature, body = print_signature(kernel, name, store), print_body(kernel, store)
    return "\n".join([*origin_lines(origins), "@triton.jit", signature, body])


def print_file(functions: Iterable[str]) -> str:
    """The text of rows.py: printed functions and what they import."""
    body = "\n\n".join(f"{function}\n" for function in functions)
    imports = [
        f"from pagedc.kernels.triton.{module} import {', '.join(used)}\n"
        for module, names in HELPERS.items()
        if (used := [name for name in sorted(names) if f"{name}(" in body])
    ]
    return f"{HEADER}\n{''.join(imports)}\n\n{body}"
