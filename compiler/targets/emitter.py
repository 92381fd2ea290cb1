"""Walk a program to print it: what the printers of all targets have in common.

Repeated layers become a function for each distinct layer and a table of what differs between them; a buffer
becomes a variable where a function first uses it.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

from pagedc.compiler.errors import InternalError
from pagedc.compiler.layer_table import Column, LayerTable, arguments, call_note, layer_table
from pagedc.compiler.outline import Loop, outline
from pagedc.compiler.program import Buffer, Call, Program


class Function(NamedTuple):
    """Its name and the lines of its body."""

    name: str
    lines: list[str]


@dataclass(frozen=True, slots=True)
class LayerLoop:
    """A loop over layers as text: `layer`, `Layer` and `LAYERS`, numbered from the second loop on."""

    suffix: str
    columns: list[Column]  # `kind` says which function, where there are several
    rows: list[list[int]]
    functions: list[Function]

    @property
    def name(self) -> str:
        """Of its function; of several, what they begin with."""
        return f"layer{self.suffix}"

    @property
    def struct(self) -> str:
        """The type of a row of its table."""
        return f"Layer{self.suffix}"

    @property
    def table(self) -> str:
        """The name of its table."""
        return f"LAYERS{self.suffix}"


class Sections(NamedTuple):
    """A program as text."""

    tokens: list[str]  # what is computed for each token
    rows: list[str]  # and for each row of logits
    loops: list[LayerLoop]


class Emitter(ABC):
    """Prints the calls of a program. A target says how each is spelled."""

    comment: ClassVar[str]  # begins one
    reserved: ClassVar[Collection[str]]  # what a variable may not be called

    def __init__(self, program: Program) -> None:
        self.program = program
        self.functions = {function.name: function for function in program.row_functions}
        self._variables: dict[Buffer, str] = {}  # of the function that is being printed
        self._declarations: list[str] = []  # of the call that is being printed

    @abstractmethod
    def print_call(self, call: Call, text: dict[str, str]) -> list[str]:
        """The lines of a call; `text` spells its `layer_table.arguments`."""

    @abstractmethod
    def print_loop(self, loop: LayerLoop) -> list[str]:
        """The lines that run each layer."""

    @abstractmethod
    def print_sample(self, logits: str) -> str:
        """The line that chooses the next token of each row."""

    @abstractmethod
    def declaration(self, name: str, buffer: Buffer, place: str) -> str:
        """The line that makes `name` stand for a buffer at `place` of its arena."""

    def start_rows(self) -> list[str]:
        """What comes between the calls of all tokens and those of the rows of logits."""
        return []

    def before_head(self, head: Call) -> list[str]:
        """What comes between the last hidden states and the linear that makes logits of them."""
        return []

    def sections(self) -> Sections:
        """All lines, which depend on the program alone."""
        tokens: list[str] = []
        rows: list[str] = []
        loops: list[LayerLoop] = []
        for section in outline(self.program.calls):
            is_row = isinstance(section, Call) and section.outputs[0].domain == "row"
            if is_row and not rows:
                rows += self.start_rows()
            if rows and not is_row:
                raise InternalError("a call of all tokens follows one of the rows of logits")
            if isinstance(section, Loop):
                loops.append(self._loop(section, len(loops)))
                tokens += self.print_loop(loops[-1])
                continue
            lines = rows if is_row else tokens
            lines += self.before_head(section) if section is self.program.head else []
            lines += self._call(0, section, LayerTable())
        self._declarations = []
        logits = self.variable(self.program.logits, str(self.program.logits.offset))
        rows += [*self._declarations, f"{self.comment} the next token of each row", self.print_sample(logits)]
        return Sections(tokens, rows, loops)

    def variable(self, buffer: Buffer, place: str) -> str:
        """The variable that stands for a buffer, declared where the function first uses it."""
        if buffer not in self._variables:
            name = buffer.name if buffer.name.isidentifier() else f"value_{buffer.name}"
            name = f"{name}_out" if name in self.reserved else name
            taken = set(self._variables.values())
            self._variables[buffer] = next(
                unique for unique in (name, *(f"{name}_{i}" for i in range(2, 9999))) if unique not in taken
            )
            self._declarations.append(self.declaration(self._variables[buffer], buffer, place))
        return self._variables[buffer]

    def forget_variables(self) -> None:
        """What follows is another function."""
        self._variables = {}

    def output(self, call: Call, position: int, text: dict[str, str]) -> str:
        """The variable of an output."""
        return self.variable(call.outputs[position], text[f"out{position}"])

    def _loop(self, loop: Loop, number: int) -> LayerLoop:
        suffix = f"_{number}" if number else ""
        layers = layer_table(loop)
        functions = []
        for index, calls in enumerate(loop.functions):
            name = f"layer{suffix}" if len(loop.functions) == 1 else f"layer{suffix}_kind_{index}"
            outside, self._variables = self._variables, {}
            lines = [line for i, call in enumerate(calls) for line in self._call(i, call, layers)]
            self._variables = outside
            functions.append(Function(name, lines))
        columns = list(layers.columns)
        if len(functions) > 1:
            columns.append(Column("kind", loop.kinds, "which function"))
        rows = [[column.values[i] for column in columns] for i in range(len(loop.iterations))]
        return LayerLoop(suffix, columns, rows, functions)

    def _call(self, position: int, call: Call, layers: LayerTable) -> list[str]:
        self._declarations = []
        values = arguments(call)
        lines = self.print_call(call, {name: layers.spell(position, name, values[name]) for name in values})
        note = call_note(call, in_loop=bool(layers.columns))
        return [f"{self.comment} {note}", *self._declarations, *lines]
