"""What a launch needs of a chip, read from its cross-compiled binary: no GPU is asked.

Triton's own `ptxas` and `cuobjdump` come with its wheel. Not for a process that runs Triton's interpreter.
"""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from pagedc.kernels.triton.launch import Launch

# Of one program: bytes of shared memory, by compute capability (CUDA C++ Programming Guide, table 30).
SHARED_BYTES = {80: 163 << 10, 90: 227 << 10, 100: 227 << 10}
REGISTERS = 65536  # of an SM; a program's threads share them


@dataclass(frozen=True, slots=True)
class Resources:
    """Of one compiled kernel."""

    registers: int  # a thread
    spilled_bytes: int  # a thread: local memory
    shared_bytes: int  # a program
    num_warps: int

    def fits(self, capability: int) -> bool:
        """Whether a program of it can run on a chip of this compute capability (90 = sm_90)."""
        in_registers = self.registers * 32 * self.num_warps <= REGISTERS
        return in_registers and self.shared_bytes <= SHARED_BYTES[capability]


def compile_launch(launch: Launch, capability: int) -> Any:
    """Triton's CompiledKernel of a launch for sm_{capability}: `.asm["cubin"]`, `.metadata`."""
    source = ASTSource(launch.kernel, launch.signature(), launch.all_constexprs(), launch.attributes())
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=launch.options())


def measure(compiled: Any) -> Resources:
    """The resources of what `compile_launch` returned."""
    cuobjdump = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = subprocess.run(
            [cuobjdump, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", usage))
    return Resources(
        int(found["REG"]),
        int(found["STACK"]) + int(found["LOCAL"]),
        int(compiled.metadata.shared),
        int(compiled.metadata.num_warps),
    )
