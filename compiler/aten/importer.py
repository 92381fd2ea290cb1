"""Walk an exported program and build the graph.

The trace runs over one flat sequence of T tokens, T symbolic. Each tensor has the token axis at most once;
the importer notes where, takes it out of the shape, and hands each op to its function in the table. Only what
the logits depend on is read, so dead code in a module costs nothing and refuses nothing.
"""

import operator
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.fx import Node as FxNode
from torch.fx.experimental.symbolic_shapes import free_unbacked_symbols

from pagedc.compiler.aten.builder import Builder, op_name, origin_of
from pagedc.compiler.aten.table import COMPLEX, PAIRS, PARTS, SHIFTED, TABLE, NoRuleError
from pagedc.compiler.aten.values import Parts, Shifted, Value
from pagedc.compiler.errors import UnsupportedError
from pagedc.compiler.graph import Graph
from pagedc.compiler.masks import MaskReader, is_symbolic


class Importer(Builder):
    """State of one import; the functions of the table build on its methods."""

    def __init__(
        self, program: ExportedProgram, buffers: dict[str, torch.Tensor], names: dict[str, str]
    ) -> None:
        """`buffers`: values of the computed ones; `names`: the one name of each, perhaps tied, parameter."""
        super().__init__()
        self.program = program
        self.buffers = buffers
        self.names = names
        self.values: dict[FxNode, Any] = {}
        self.masks = MaskReader(program, buffers)

    def run(self) -> Graph:
        """Build the graph. Raises NoRuleError or UnsupportedError."""
        placeholders = self._placeholders()
        output = next(node for node in self.program.graph.nodes if node.op == "output")
        needed = self._needed(output)
        unknown = [node for node in needed if not self._known(node)]
        if unknown:
            self._refuse_sizes_of_values(needed)
            raise NoRuleError(op_name(unknown[0]), origin_of(unknown[0]))
        for node in needed:
            self.current = node
            if node.op == "placeholder":
                self.values[node] = placeholders[node.name]()
            elif node.op == "get_attr":
                self.values[node] = self.constant(getattr(self.program.graph_module, str(node.target)))
            elif node.op == "call_function" and not self._is_mask(node):
                try:
                    self.values[node] = self._call(node)
                except UnsupportedError:
                    self._refuse_sizes_of_values([node])
                    raise
        logits = self.values[output.args[0][0]]
        if not isinstance(logits, Value):
            raise self.unsupported("logits that are not of each token")
        self.graph.output = self.reshape_node(logits.node, (logits.shape[-1],))
        return self.graph

    def _placeholders(self) -> dict[str, Callable[[], Value]]:
        table: dict[str, Callable[[], Value]] = {}
        for spec in self.program.graph_signature.input_specs:
            name, target = spec.arg.name, spec.target
            if spec.kind == InputKind.USER_INPUT:
                table[name] = partial(self.input, name)
            elif spec.kind == InputKind.CONSTANT_TENSOR and not self.program.constants[target].is_meta:
                table[name] = partial(self.constant, self.program.constants[target])
            elif spec.kind == InputKind.PARAMETER:
                table[name] = partial(self._parameter, target)
            else:
                table[name] = partial(self._buffer, target)
        return table

    def _parameter(self, target: str) -> Value:
        target = target.removeprefix("model.")  # the wrapper's
        target = self.names.get(target, target)
        if target not in self._leaves:
            shape = self.full_shape(self.meta)
            self._leaves[target] = Value(self.add("parameter", (), shape, "float32", name=target), shape)
        return self._leaves[target]

    def _buffer(self, target: str) -> Value:
        if target.removeprefix("model.") in self.buffers:
            return self.constant(self.buffers[target.removeprefix("model.")])
        return self._parameter(target)

    def _known(self, node: FxNode) -> bool:
        return (
            node.op != "call_function"
            or node.target is operator.getitem
            or is_symbolic(node)
            or op_name(node) in TABLE
            or _is_pair(node)
        )

    def _refuse_sizes_of_values(self, needed: list[FxNode]) -> None:
        """Raises UnsupportedError for the first size that values of tokens decide: no rule would help."""
        for node in needed:
            if isinstance(node.meta.get("val"), torch.Tensor) and free_unbacked_symbols(node.meta["val"]):
                self.current = node
                raise self.unsupported(
                    "a size that the values of tokens decide; those of a package depend on their number alone"
                )

    def _needed(self, output: FxNode) -> list[FxNode]:
        """What the output depends on, but for what a mask is made of: that is run, not imported.

        In an order that follows from what reads what, not the order of the trace: modules that walk a Python
        set (of kinds of layers, to make rotary embeddings for each) are traced in another order each time.
        """
        order: dict[FxNode, None] = {}
        stack: list[tuple[FxNode, bool]] = [(output, False)]
        while stack:
            node, is_ready = stack.pop()
            if is_ready:
                order[node] = None
            elif node not in order:
                stack.append((node, True))
                if not self._is_mask(node):
                    sources = [source for source in node.all_input_nodes if not self._is_cut(node, source)]
                    stack.extend((source, False) for source in reversed(sources))
        return list(order)

    def _is_mask(self, node: FxNode) -> bool:
        """Whether it says something of each pair of tokens that positions alone decide."""
        return node in self.masks.static and _is_pair(node)

    def _is_cut(self, reader: FxNode, source: FxNode) -> bool:
        """Whether a reader of pairs meets `source` as a mask or as a part of one."""
        return _is_pair(reader) and source in self.masks.static

    def _call(self, node: FxNode) -> Any:
        if is_symbolic(node):
            return node.meta["val"]
        if node.target is operator.getitem:
            return self.values[node.args[0]][node.args[1]]  # type: ignore[index]
        arguments, keywords = torch.fx.map_arg(
            (node.args, node.kwargs), lambda argument: self.values.get(argument, argument)
        )
        try:
            if _is_pair(node) or any(_is_pair(source) and source in self.values for source in node.args):
                return TABLE[PAIRS](self, node, arguments)
            name = op_name(node)
            if any(isinstance(argument, Parts) for argument in arguments):
                return TABLE[PARTS](self, name, *arguments, **keywords)
            if any(isinstance(argument, Shifted) for argument in _all(arguments)):
                return TABLE[SHIFTED](self, name, *arguments, **keywords)
            if name != "aten.view_as_real" and any(_is_complex(argument) for argument in node.args):
                return TABLE[COMPLEX](self, name, *arguments, **keywords)
            return TABLE[name](self, *arguments, **keywords)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            # A form of the op that its function does not know: a refusal, as an unknown op is.
            raise self.unsupported(f"arguments without a rule in the compiler ({error})") from error


def _all(arguments: Any) -> Iterator[Any]:
    """The arguments, and those that stand in a list."""
    for argument in arguments:
        yield from argument if isinstance(argument, list) else [argument]


def _is_pair(node: Any) -> bool:
    """Whether a traced tensor has the token axis twice."""
    fake = node.meta.get("val") if isinstance(node, FxNode) else None
    if isinstance(fake, tuple | list) and fake:
        fake = fake[0]
    return isinstance(fake, torch.Tensor) and sum(_is_open(size) for size in fake.shape) > 1


def _is_complex(node: Any) -> bool:
    fake = node.meta.get("val") if isinstance(node, FxNode) else None
    return isinstance(fake, torch.Tensor) and fake.is_complex()


def _is_open(size: Any) -> bool:
    return not isinstance(size, int) and not size.node.expr.is_Integer
