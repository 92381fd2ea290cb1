"""NVIDIA GPUs: one readable model.py, and Triton kernels as source and as cubins."""

from pagedc.compiler.errors import OptionError
from pagedc.compiler.options import CompileOptions
from pagedc.compiler.program import Program
from pagedc.compiler.progress import Phase
from pagedc.compiler.rows.kernel import RowKernel
from pagedc.compiler.seal import PackageWriter
from pagedc.compiler.targets.base import Facts
from pagedc.compiler.targets.cuda import row_printer
from pagedc.compiler.targets.cuda.arch import BLOCK_SIZE, INTERPRETER, has_pdl, parse_target
from pagedc.compiler.targets.cuda.attention_launches import kv_block_bytes
from pagedc.compiler.targets.cuda.buckets import buckets_of
from pagedc.compiler.targets.cuda.cross_compile import compile_binaries, describe
from pagedc.compiler.targets.cuda.emit import emit
from pagedc.compiler.targets.cuda.kernels import Kernels
from pagedc.compiler.targets.cuda.launch_table import LaunchTable, dump, global_scratch_bytes
from pagedc.compiler.targets.cuda.points import Point, Recorder, points_of
from pagedc.compiler.targets.cuda.sources import kernel_sources
from pagedc.compiler.targets.cuda.tuned import tuned
from pagedc.compiler.targets.cuda.tuned_rows import configs_of, default_row
from pagedc.compiler.targets.cuda.weight_layout import CudaLayout
from pagedc.compiler.targets.state import state_bytes, state_calls
from pagedc.compiler.tuning import Tuning
from pagedc.runtime import manifest

SOURCE = "model.py"
TABLE = "kernels/kernels.json"
WITHOUT_FP8 = ("sm_80",)  # e4m3 came with sm_89


class CudaTarget:
    """GPUs of one architecture, or none: the interpreter."""

    program = SOURCE
    block_size = BLOCK_SIZE

    def __init__(self, options: CompileOptions) -> None:
        """Raises OptionError for an unknown architecture, or one without what is asked for."""
        self.arch = parse_target(options.target)
        if options.kv_cache_dtype == "fp8" and self.arch in WITHOUT_FP8:
            raise OptionError(f"kv_cache_dtype is fp8, which {self.arch} does not have: sm_90 and later do")
        self._options = options
        self._tuning: Tuning | None = None
        self.scratch_bytes = 0
        self.table = LaunchTable(pdl=has_pdl(self.arch))
        self.buckets: dict[str, list[int]] = {}

    @property
    def layout(self) -> CudaLayout:
        """Row by row."""
        return CudaLayout()

    def print_body(self, kernel: RowKernel) -> str:
        """Statements of a Triton kernel."""
        return row_printer.print_body(kernel)

    def tune(self, program: Program, facts: Facts, phase: Phase) -> None:
        """Choose the configs of the kernels. Raises OptionError, ToolchainError, UnsupportedError."""
        kernels, points = self._points(program, facts)
        self._tuning = tuned(kernels, points, self.arch, self._options, phase)

    def emit(self, writer: PackageWriter, program: Program, facts: Facts) -> str:
        """Write model.py, the printed row kernels, and the kernels and launcher that they need."""
        kernels, points = self._points(program, facts)
        if self._tuning is None:
            rows = {(row.kernel, row.shape): row for row in map(default_row, points)}
            self._tuning = Tuning(self.arch, "none", [*rows.values()], arch=self.arch)
        kernels.configs = configs_of(points, self._tuning.kernels)
        self.buckets = buckets_of(facts.limits)
        for kernel in kernels.kernels.values():
            self.table.add(kernel, self.buckets[kernel.dimension])
        sizes = self.table.scratch_bytes
        self.scratch_bytes = sum(sizes.values())
        source = emit(program, kernels, self.arch, sizes["scratch"], sizes["counters"])
        writer.write_text(SOURCE, source)
        for name, text in kernel_sources(kernels, self.table.binaries).items():
            writer.write_text(name, text)
        return f"{SOURCE}, {source.count(chr(10))} lines"

    def build(self, writer: PackageWriter) -> str:
        """Cubins, and the table of what is launched."""
        binaries = list(self.table.binaries)
        entries = [describe(binary) for binary in binaries]
        note = "no cubins: the interpreter's"
        if self.arch != INTERPRETER:
            facts = compile_binaries(writer.directory, binaries, self.arch, self._options.threads)
            entries = [entry | fact for entry, fact in zip(entries, facts, strict=True)]
            note = f"{len(entries)} cubins for {self.arch}"
        scratch = global_scratch_bytes(self.table.all_launches(), entries)
        self.scratch_bytes += scratch
        table = {
            "arch": self.arch,
            "global_scratch": scratch,
            "buckets": self.buckets,
            "kernels": self.table.kernels,
            "binaries": entries,
        }
        writer.write_bytes(TABLE, dump(table))
        return note

    def kv_block_bytes(self, program: Program, facts: Facts) -> int:
        """Keys and values of every layer."""
        calls = (call for call in program.calls if call.kind == "attention")
        return sum(sum(kv_block_bytes(call, facts.kv_dtype)) for call in calls)

    def state_bytes(self, program: Program) -> int:
        """Of all layers that have any."""
        return sum(map(state_bytes, state_calls(program)))

    def describe(self) -> manifest.Target:
        """The architecture."""
        return manifest.Target(
            kind="cuda", arch=self.arch, level=self.arch, cpu_features=[], device_name=self.arch
        )

    def tuning(self) -> Tuning:
        """What was timed; else each kernel's default, marked as not tuned."""
        return self._tuning or Tuning(self.arch, "none")

    def _points(self, program: Program, facts: Facts) -> tuple[Kernels, list[Point]]:
        kernels = Kernels(program, facts, Recorder(), self.table.pdl)
        return kernels, points_of(kernels, buckets_of(facts.limits))
