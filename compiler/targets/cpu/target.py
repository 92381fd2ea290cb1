"""The CPU: one readable model.cpp and the kernels' headers, built by g++ into model.so."""

import platform
from pathlib import Path

import pagedc.kernels.cpu as cpu_kernels
from pagedc.compiler.options import CompileOptions
from pagedc.compiler.program import Program
from pagedc.compiler.progress import Phase
from pagedc.compiler.rows.kernel import RowKernel
from pagedc.compiler.seal import PackageWriter
from pagedc.compiler.targets.base import Facts
from pagedc.compiler.targets.cpu import row_printer, toolchain
from pagedc.compiler.targets.cpu.emit import emit
from pagedc.compiler.targets.cpu.mixers import BLOCK_SIZE, kv_block_bytes
from pagedc.compiler.targets.cpu.tuned import Tiles, linear_shapes, tiles_of, tuned
from pagedc.compiler.targets.cpu.weight_layout import CpuLayout
from pagedc.compiler.targets.state import state_bytes, state_calls
from pagedc.compiler.tuning import Tuning
from pagedc.runtime import manifest

SOURCE = "model.cpp"


class CpuTarget:
    """Machines with the instructions of one level."""

    program = "kernels/model.so"
    block_size = BLOCK_SIZE
    scratch_bytes = 0  # counted with the activations of a step

    def __init__(self, options: CompileOptions) -> None:
        """Raises ToolchainError: before minutes are spent on what could not be finished."""
        toolchain.compiler()
        self.level = options.cpu
        self.layout = CpuLayout(codes=set(toolchain.AVX2) <= set(toolchain.required_features(self.level)))
        self._options = options
        self._tuning = Tuning(toolchain.device_name(), "none")
        self._tiles: list[Tiles] = []

    def print_body(self, kernel: RowKernel) -> str:
        """C++ statements."""
        return row_printer.print_body(kernel)

    def tune(self, program: Program, facts: Facts, phase: Phase) -> None:
        """Choose the tiles of the linears."""
        options, shapes = self._options, linear_shapes(program, facts.limits)
        self._tuning = tuned(shapes, self.level, options.threads, options.tune, options.tuning, phase)
        self._tiles = tiles_of(shapes, self._tuning)

    def emit(self, writer: PackageWriter, program: Program, facts: Facts) -> str:
        """Write model.cpp and the headers that it includes; the package imports nothing of pagedc."""
        source = emit(program, facts.name, facts.version, self.level, _kv_type(facts), self._tiles)
        writer.write_text(SOURCE, source)
        for header in sorted(Path(cpu_kernels.__path__[0]).glob("*.h")):
            writer.write_text(f"kernels/{header.name}", header.read_text())
        return f"{SOURCE}, {source.count(chr(10))} lines"

    def build(self, writer: PackageWriter) -> str:
        """model.so."""
        library = writer.path(self.program)
        toolchain.compile_library(writer.path(SOURCE), library, self.level)
        return f"{library.name}, {library.stat().st_size >> 10} KiB"

    def kv_block_bytes(self, program: Program, facts: Facts) -> int:
        """As kv_cache.h lays it out."""
        calls = [call for call in program.calls if call.kind == "attention"]
        return sum(kv_block_bytes(call, _kv_type(facts)) for call in calls)

    def state_bytes(self, program: Program) -> int:
        """As the kernels lay it out."""
        return sum(map(state_bytes, state_calls(program)))

    def describe(self) -> manifest.Target:
        """The machine and the instructions it must have."""
        return manifest.Target(
            kind="cpu",
            arch=platform.machine(),
            level=self.level,
            cpu_features=toolchain.required_features(self.level),
            device_name=toolchain.device_name(),
        )

    def tuning(self) -> Tuning:
        """What `tune` chose."""
        return self._tuning


def _kv_type(facts: Facts) -> str:
    return "float" if facts.dtype == "float32" else "bf16"
