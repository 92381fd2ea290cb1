"""The launch of a printed row kernel, as those of kernels/triton/launch.py are: its file is not imported."""

from types import SimpleNamespace
from typing import Any

from pagedc.compiler.graph import Node
from pagedc.compiler.rows.kernel import RowKernel
from pagedc.compiler.targets.cuda.arch import BLOCK_SIZE
from pagedc.compiler.targets.cuda.cache_stores import CacheStore
from pagedc.compiler.targets.cuda.launch_table import Arguments
from pagedc.compiler.targets.cuda.row_printer import num_warps, parameters, scratch_elements
from pagedc.kernels.triton.launch import argument_type, is_aligned

CONSTANTS = ("PDL", "INTERPRET")


def row_argument(arguments: Arguments, node: Node, name: str, size: int) -> Any:
    """A value that a row kernel reads or writes, for `size` tokens: an input of the step has its own name."""
    shape = (node.size,) if node.domain == "const" else (size, node.size)
    given = node.attrs["name"] if node.op == "input" else name
    dtype = "float32" if node.domain == "const" and node.dtype == "bfloat16" else node.dtype
    return arguments.tensor(given, shape, dtype)


class RowLaunch:
    """One program a token; `name` is what the kernel is printed as."""

    num_stages = 1

    def __init__(
        self,
        name: str,
        kernel: RowKernel,
        arguments: Arguments,
        size: int,
        pdl: bool,
        store: CacheStore | None,
        kv_dtype: str,
    ) -> None:
        self.args: dict[str, Any] = {}
        for node, parameter in parameters(kernel, store).items():
            self.args[parameter] = row_argument(arguments, node, parameter, size)
        if store is not None:
            for cache, width in (("k_cache", store.head_dim), ("v_cache", store.v_head_dim)):
                shape = (1, store.num_kv_heads, BLOCK_SIZE, width)
                self.args[cache] = arguments.tensor(cache, shape, kv_dtype)
            self.args["slot_mapping"] = arguments.tensor("slot_mapping", (size,), "int64")
        cells = scratch_elements(kernel)
        if cells:
            self.args["scratch"] = arguments.tensor("scratch", (size * cells,), "float32")
        names = [*self.args, *CONSTANTS]
        self.kernel = SimpleNamespace(arg_names=names, fn=SimpleNamespace(__module__="rows", __name__=name))
        self.grid = (size, 1, 1)
        self.num_warps = num_warps(kernel)
        self.pdl = pdl

    def signature(self) -> dict[str, str]:
        """As `Launch.signature`."""
        types = {name: argument_type(value) for name, value in self.args.items()}
        return types | dict.fromkeys(CONSTANTS, "constexpr")

    def all_constexprs(self) -> dict[str, Any]:
        """As `Launch.all_constexprs`."""
        return {"PDL": self.pdl, "INTERPRET": False}

    def attributes(self) -> dict[tuple[int], list[list[Any]]]:
        """As `Launch.attributes`."""
        aligned = (index for index, value in enumerate(self.args.values()) if is_aligned(value))
        return {(index,): [["tt.divisibility", 16]] for index in aligned}
