"""How each program is made to produce each figure: always a process of its own, with a time limit."""

import asyncio
import json
import os
import signal
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import record
from pagedc.runtime.bench.figures import serve_figures
from pagedc.runtime.bench.load import Load, offer
from pagedc.runtime.bench.machine import peak_memory
from pagedc.runtime.bench.recording import address_of
from pagedc.runtime.bench.startup import HOST, free_port, running, wait_until_ready
from pagedc.runtime.bench.workload import Lengths, drawn, request_body

CHILD = Path(__file__).with_name("peer_child.py")
SHORT_PROMPT = 8
SEED = 7


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much a figure takes: tokens and sequences."""

    threads: int
    prefill: int = 1024
    decode: int = 128
    streams: int = 16
    stream_input: int = 128
    stream_output: int = 128


@dataclass(frozen=True, slots=True)
class Tools:
    """Where the programs are; None = not here."""

    llama_bench: Path | None
    llama_server: Path | None
    pythons: dict[str, Path]  # of the libraries that run in a process of ours


class RunError(Exception):
    """A measurement that gave no figure."""


def is_here(program: str, figure: str, tools: Tools) -> bool:
    """Whether the program can be run for this figure."""
    if program == "llama.cpp":
        return (tools.llama_bench if figure in ("decode", "prefill") else tools.llama_server) is not None
    return program in tools.pythons


def measure(
    program: str, figure: str, model: Path, tools: Tools, sizes: Sizes, timeout: float
) -> dict[str, Any]:
    """`value` (tokens a second; seconds for first_token), `peak_memory` in bytes and `command`."""
    if program == "llama.cpp" and figure in ("decode", "prefill"):
        return _llama_bench(figure, model, tools, sizes, timeout)
    if figure in ("streams", "first_token") and program in ("llama.cpp", "pagedc"):
        command, ready = _server_command(program, model, tools, sizes)
        return _over_http(figure, command, ready, model, sizes, timeout)
    return _child(program, figure, model, tools, sizes, timeout)


def _llama_bench(figure: str, model: Path, tools: Tools, sizes: Sizes, timeout: float) -> dict[str, Any]:
    tokens = ["-p", "0", "-n", str(sizes.decode)]
    if figure == "prefill":
        tokens = ["-p", str(sizes.prefill), "-n", "0"]
    command = [str(tools.llama_bench), "-m", str(model), *tokens]
    command += ["-t", str(sizes.threads), "-r", "1", "-o", "json"]
    out, _, peak = _run(command, timeout)
    return {
        "value": float(json.loads(out)[0]["avg_ts"]),
        "peak_memory": peak,
        "command": record.without_folders(command),
    }


def _child(
    program: str, figure: str, model: Path, tools: Tools, sizes: Sizes, timeout: float
) -> dict[str, Any]:
    num_input, num_output, sequences = {
        "decode": (SHORT_PROMPT, sizes.decode, 1),
        "prefill": (sizes.prefill, 2, 1),
        "streams": (sizes.stream_input, sizes.stream_output, sizes.streams),
        "first_token": (SHORT_PROMPT, 1, 1),
    }[figure]
    words = [program, str(model), figure, str(sizes.threads), str(num_input), str(num_output), str(sequences)]
    command = [str(tools.pythons[program]), str(CHILD), *words]
    out, first, _ = _run(command, timeout)
    try:
        found = json.loads(out.strip().splitlines()[-1])
    except (ValueError, IndexError):
        raise RunError(f"printed {out[-200:]!r}") from None
    if figure == "first_token":
        found["value"] = first
    return found | {"command": record.without_folders(command)}


def _run(command: list[str], timeout: float) -> tuple[str, float | None, int]:
    """What it printed, the seconds until its line "first", and the largest resident set of it in bytes."""
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryFile() as errors:
        begin = time.perf_counter()
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, start_new_session=True, env=environment, text=True
        )
        watchdog = threading.Timer(timeout, os.killpg, (process.pid, signal.SIGKILL))
        watchdog.start()
        lines, first = [], None
        for line in process.stdout or ():
            if line == "first\n":
                first = time.perf_counter() - begin
            lines.append(line)
        _, status, usage = os.wait4(process.pid, 0)
        watchdog.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
            late = process.returncode == -signal.SIGKILL and time.perf_counter() - begin >= timeout
            why = f"nothing after {timeout:g} s" if late else "; ".join(said[-2:])
            raise RunError(f"ended with {process.returncode}: {why}")
    return "".join(lines), first, usage.ru_maxrss << 10


def _server_command(program: str, model: Path, tools: Tools, sizes: Sizes) -> tuple[list[str], str]:
    """The command but for its port, and the path that answers 200 when it is ready."""
    threads = str(sizes.threads)
    if program == "pagedc":
        python = str(tools.pythons["pagedc"])
        words = ["serve", str(model), "--threads", threads, "--no-prefix-cache"]
        return [python, "-P", "-m", "pagedc.runtime.cli", *words], "/ready"
    context = sizes.streams * (sizes.stream_input + sizes.stream_output + 16)
    words = ["-m", str(model), "-t", threads, "-tb", threads, "-np", str(sizes.streams), "-c", str(context)]
    return [str(tools.llama_server), *words, "--host", HOST], "/health"


def _over_http(
    figure: str, command: list[str], ready: str, model: Path, sizes: Sizes, timeout: float
) -> dict[str, Any]:
    port = free_port()
    command = [*command, "--port", str(port)]
    if model.is_dir():
        name = json.loads((model / "manifest.json").read_text())["model"]["name"]
    else:
        name = model.stem
    begin = time.perf_counter()
    with running(command) as process:
        wait_until_ready(process, port, ready, timeout)
        address = address_of(f"http://{HOST}:{port}", "/v1/completions")
        if figure == "first_token":
            asks = drawn(1, Lengths(SHORT_PROMPT, SHORT_PROMPT), Lengths(2, 2), SEED)
        else:
            lengths = (Lengths(n, n) for n in (sizes.stream_input, sizes.stream_output))
            asks = drawn(sizes.streams, *lengths, SEED)
        bodies = [request_body(ask, name, chat=False, ignore_eos=True) for ask in asks]
        if figure == "streams":  # every slot has seen a prompt
            warm = drawn(sizes.streams, Lengths(SHORT_PROMPT, SHORT_PROMPT), Lengths(2, 2), SEED + 1)
            warm_bodies = [request_body(ask, name, chat=False, ignore_eos=True) for ask in warm]
            asyncio.run(offer(address, warm_bodies, Load(), timeout=timeout))
        answers, seconds = asyncio.run(offer(address, bodies, Load(), timeout=timeout))
        figures = serve_figures(answers, seconds, {})
        if figures["failed"]:
            raise RunError(f"{figures['failed']} of {len(answers)} failed: {figures['first_error']}")
        peak = peak_memory(process.pid)
        value = figures["output_tokens_per_second"]
        if figure == "first_token":
            value = answers[0].token_times[0] - begin
        if figure == "streams" and figures["output_tokens"] != sizes.streams * sizes.stream_output:
            raise RunError(f"{figures['output_tokens']} tokens came")
    return {"value": value, "peak_memory": peak, "command": record.without_folders(command)}
