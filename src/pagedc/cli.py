"""`pagedc COMMAND …`: hand the words to the compiler or the runtime, importing only that one.

Help and version answer without importing either: `pagedc --help` takes what Python takes to start.
"""

import sys
from importlib.util import find_spec

from pagedc import __version__

RUNTIME_COMMANDS = {
    "serve": "serve packages over the OpenAI HTTP API",
    "chat": "talk to a package or a server in the terminal",
    "batch": "answer every line of a file of requests",
    "inspect": "say what is in a package",
    "verify": "check every byte of a package; --against MODEL: and its logits",
    "bench": "measure latency, throughput, a server under load, a start",
}
COMPILER_COMMANDS = {
    "compile": "compile a model into a package",
    "tune": "time a package's kernels on this machine",
    "report": "show what a compile made and what it takes",
}
COMMANDS = {"compile": "", **RUNTIME_COMMANDS, **COMPILER_COMMANDS}  # in the order of the help

# What the compiler needs beyond the runtime, and how to get it.
COMPILER_MODULES = ("torch", "transformers", "safetensors", "gguf")
COMPILER_HINT = "pip install 'pagedc[compiler]'"

TOOL_MISSING = 4
USAGE = 2
INTERRUPTED = 130  # 128 + SIGINT, as a shell says it


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code: `--help` says what each means."""
    words = sys.argv[1:] if argv is None else argv
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        print("\npagedc: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # `pagedc inspect … | head`: the reader has what it wanted
        sys.stderr.close()
        return 0


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0 if words else USAGE
    command = words[0]
    if command in ("-V", "--version"):
        print(f"pagedc {__version__}")
        return 0
    if command == "verify" and any(word.partition("=")[0] == "--against" for word in words):
        return _compiler(words)
    if command in RUNTIME_COMMANDS:
        from pagedc.runtime.cli import main as runtime_main

        return runtime_main(words)
    if command in COMPILER_COMMANDS:
        return _compiler(words)
    return _fail(f"there is no command {command!r}; it is one of: {', '.join(COMMANDS)}", USAGE)


def _compiler(words: list[str]) -> int:
    missing = [name for name in COMPILER_MODULES if find_spec(name) is None]
    if missing and not {"-h", "--help"}.intersection(words):
        return _fail(f"`pagedc {words[0]}` needs {', '.join(missing)}: {COMPILER_HINT}", TOOL_MISSING)
    from pagedc.compiler.cli import main as compiler_main

    return compiler_main(words)


def _help() -> str:
    lines = [f"  {name:<9} {COMPILER_COMMANDS.get(name) or RUNTIME_COMMANDS[name]}" for name in COMMANDS]
    return "\n".join(
        [
            "usage: pagedc COMMAND …        pagedc COMMAND --help        pagedc --version",
            "",
            "Compile a Hugging Face language model ahead of time into a sealed package, and serve it.",
            "",
            *lines,
            "",
            "exit codes: 0 done, 1 failed, 2 usage, 3 model unsupported, 4 no toolchain, device or package,",
            "            5 verification failed, 130 interrupted",
        ]
    )


def _fail(message: str, code: int) -> int:
    print(f"pagedc: error: {message}", file=sys.stderr)
    return code
