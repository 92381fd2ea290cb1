"""Triton kernels to cubins of a named GPU, on any machine.

It happens in processes of its own: Triton decides when it is imported whether it interprets, and several
compile at once. They import the sources that the package carries, so what is shipped is what was compiled.
"""

import importlib
import json
import os
import re
import subprocess
import sys
import time
import types
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pagedc.compiler.errors import ToolchainError
from pagedc.compiler.targets.cuda.arch import ARCHS
from pagedc.compiler.targets.cuda.launch_table import Binary

PACKAGE = "pagedc_cross_compiled"
# Line numbers would put the path of the temporary package into the cubin.
ENVIRONMENT = {"TRITON_DISABLE_LINE_INFO": "1", "TRITON_DEFAULT_FP_FUSION": "1"}


def describe(binary: Binary) -> dict[str, Any]:
    """A binary as kernels.json has it, before it is compiled."""
    return {
        "module": binary.module,
        "function": binary.function,
        "parameters": {name: kind for name, kind in binary.signature if kind != "constexpr"},
        "constants": dict(binary.constants),
        "num_warps": binary.num_warps,
        "num_stages": binary.num_stages,
        "pdl": binary.pdl,
    }


def compile_binaries(
    package: Path, binaries: list[Binary], arch: str, processes: int, *, seconds: float | None = None
) -> list[dict[str, Any]]:
    """Write a cubin for each into the package's kernels; returns what a launch must know of each.

    Raises ToolchainError with the first complaint of Triton or ptxas. With `seconds`, for the tuner, a
    complaint becomes a binary's `failed`, as does the end of the time; others have `registers` and `spilled`.
    """
    jobs = [{"index": index, **asdict(binary)} for index, binary in enumerate(binaries)]
    shares = [jobs[start::processes] for start in range(processes) if jobs[start::processes]]
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"} | ENVIRONMENT
    command = [sys.executable, "-m", "pagedc.compiler.targets.cuda.cross_compile", str(package), arch]
    command += [] if seconds is None else [str(seconds)]
    workers = []
    for share in shares:
        worker = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        workers.append((worker, json.dumps(share).encode()))
    for worker, words in workers:
        if worker.stdin is not None:
            worker.stdin.write(words)
            worker.stdin.close()
            worker.stdin = None
    outputs = [worker.communicate() for worker, _ in workers]
    found: dict[int, dict[str, Any]] = {}
    for (worker, _), (output, said) in zip(workers, outputs, strict=True):
        if worker.returncode:
            lines = said.decode(errors="replace").strip().splitlines() or [
                f"it ended with {worker.returncode}"
            ]
            raise ToolchainError(f"a kernel cannot be compiled for {arch}: {lines[-1]}")
        found |= {int(key): value for key, value in json.loads(output).items()}
    return [found[index] for index in range(len(binaries))]


def main() -> int:
    """A worker: jobs from standard input, results to standard output."""
    package, arch = Path(sys.argv[1]), sys.argv[2]
    root = types.ModuleType(PACKAGE)
    root.__path__ = [str(package)]
    sys.modules[PACKAGE] = root
    sys.dont_write_bytecode = True  # nothing may appear in the package
    limit = float(sys.argv[3]) if len(sys.argv) > 3 else None
    begin, results = time.monotonic(), {}
    for job in json.load(sys.stdin):
        if limit is None:
            results[job["index"]] = _compile(job, package, ARCHS[arch])
        elif time.monotonic() - begin > limit:
            results[job["index"]] = {"failed": "no time to compile"}
        else:
            results[job["index"]] = _try(job, package, ARCHS[arch])
    json.dump(results, sys.stdout)
    return 0


def _try(job: dict[str, Any], package: Path, capability: int) -> dict[str, Any]:
    """A candidate of the tuner."""
    try:
        entry = _compile(job, package, capability)
    except SystemExit:
        return {"failed": "does not compile"}
    return entry | _usage(package / "kernels" / entry["file"])


def _usage(cubin: Path) -> dict[str, int]:
    """Registers and spilled bytes of a thread, as Triton's own cuobjdump reads them."""
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    command = [str(tool), "--dump-resource-usage", str(cubin)]
    found = dict(re.findall(r"\b(REG|STACK|LOCAL):(\d+)", subprocess.check_output(command, text=True)))
    return {"registers": int(found["REG"]), "spilled": int(found["STACK"]) + int(found["LOCAL"])}


def _compile(job: dict[str, Any], package: Path, capability: int) -> dict[str, Any]:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = _function(job["module"], job["function"])
    places = {name: index for index, name in enumerate(kernel.arg_names)}
    constants = {
        name: _function(*value.split(":")) if isinstance(value, str) and ":" in value else value
        for name, value in job["constants"]
    }
    attributes = {(places[name],): [["tt.divisibility", 16]] for name in job["aligned"]}
    source = ASTSource(kernel, dict(job["signature"]), constants, attributes)
    options = {"num_warps": job["num_warps"], "num_stages": job["num_stages"]}
    if job["pdl"]:
        options["launch_pdl"] = True
    try:
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    except Exception as error:
        message = " ".join(str(error).split())
        print(f"{job['module']}.{job['function']}: {type(error).__name__}: {message}", file=sys.stderr)
        raise SystemExit(1) from None
    file = f"{job['index']:03}_{job['function']}.cubin"
    (package / "kernels" / file).write_bytes(compiled.asm["cubin"])
    ptx = compiled.asm["ptx"]
    entry = re.search(r"\.entry\s+\w+\s*\(([^)]*)\)([^{]*)", ptx)
    if entry is None:
        raise SystemExit(f"{job['function']}: its PTX has no entry")
    num_given = sum(kind != "constexpr" for _, kind in job["signature"])
    threads = re.search(r"\.(?:reqntid|maxntid)\s+(\d+)", entry[2])
    return {
        "file": file,
        "symbol": compiled.metadata.name,
        "threads": int(threads[1]) if threads else 32 * job["num_warps"],
        "shared": compiled.metadata.shared,
        "global_scratch": compiled.metadata.global_scratch_size,
        "hidden": entry[1].count(".param") - num_given,
    }


def _function(module: str, name: str) -> Any:
    return getattr(importlib.import_module(f"{PACKAGE}.kernels.{module}"), name)


if __name__ == "__main__":
    sys.exit(main())
