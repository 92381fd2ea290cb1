"""`pagedc serve`, `chat`, `inspect`, `verify` and `bench`: words to checked options.

What does the work is imported when its command was chosen: a server is up 0.1 s earlier for what is not
imported here. A package's own launcher runs `python -m pagedc.runtime.cli serve PACKAGE …`.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from pagedc.runtime.errors import PagedcError, UsageError
from pagedc.runtime.option_values import duration, integer, num_bytes, number, seconds, share


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 done, 1 failed, 2 usage, 4 the package cannot be opened, 130 interrupted.
    """
    words = sys.argv[1:] if argv is None else argv
    try:
        options = make_parser(words).parse_args(words)
    except SystemExit as stop:  # argparse has said why
        return int(stop.code or 0)
    try:
        return _COMMANDS[options.command](options)
    except PagedcError as error:
        print(f"pagedc {options.command}: error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        return 130


class _Parser(argparse.ArgumentParser):
    """One line for a wrong word, not the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(UsageError.exit_code, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def make_parser(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """The words that each command takes; those of `bench` only if it is among `words`."""
    parser = _Parser(prog="pagedc", description="Serve, talk to and look into packages.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands.add_parser("serve", help="serve a package over the OpenAI HTTP API"))
    _add_chat(commands.add_parser("chat", help="talk to a package or a server in the terminal"))
    _add_batch(commands.add_parser("batch", help="answer every line of a file of requests"))
    _add_inspect(commands.add_parser("inspect", help="say what is in a package"))
    _add_verify(commands.add_parser("verify", help="check every byte of a package, and run it"))
    bench = commands.add_parser("bench", help="measure latency, throughput, a server or a start")
    if "bench" in words:
        from pagedc.runtime.bench.options import add_bench

        add_bench(bench)
    return parser


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "package", type=Path, nargs="+", metavar="PACKAGE", help="directory that `pagedc compile` made"
    )
    listen = parser.add_argument_group("listening")
    listen.add_argument("--host", default="127.0.0.1", help="address to bind (default: %(default)s)")
    listen.add_argument(
        "--port", type=integer(0, 65535), default=8000, help="0 takes a free one (default: %(default)s)"
    )
    listen.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="keys that clients must send, one a line"
    )
    listen.add_argument(
        "--admin-key-file",
        type=Path,
        metavar="FILE",
        help="keys for /admin/models, which loads and unloads packages (default: there is no such route)",
    )
    listen.add_argument(
        "--allow-origin",
        default="",
        metavar="ORIGIN",
        help="origin of web pages that may ask (default: none)",
    )
    listen.add_argument("--no-web", action="store_true", help="no page at /")
    listen.add_argument(
        "--served-model-name",
        action="append",
        default=[],
        metavar="NAME",
        help="name in the API; may be repeated; with several packages MODEL=NAME",
    )
    engine = parser.add_argument_group("engine")
    engine.add_argument(
        "--memory",
        type=share(num_bytes),
        metavar="SIZE[:W:W…]",
        help="for weights, activations and KV cache of all packages, like 8GiB; with 8GiB:3:1 "
        "what is left beyond their needs is shared by weight",
    )
    engine.add_argument(
        "--threads",
        type=share(integer(1, 4096)),
        metavar="N[:W:W…]",
        help="of all packages, shared alike or by weight (default: the cores of this process)",
    )
    _add_engine_options(engine)
    engine.add_argument(
        "--idle-unload",
        type=duration,
        metavar="TIME",
        help="end an engine that had no request for so long, like 10m; the next request starts it again",
    )
    engine.add_argument(
        "--tool-parser",
        metavar="NAME",
        help="format of the model's tool calls, or none (default: the package's)",
    )
    engine.add_argument(
        "--reasoning-parser", metavar="NAME", help="format of its reasoning, or none (default: the package's)"
    )
    limits = parser.add_argument_group("limits")
    limits.add_argument(
        "--max-waiting",
        type=integer(0, 10**6),
        default=256,
        metavar="N",
        help="sequences that may wait before 429",
    )
    limits.add_argument(
        "--max-connections",
        type=integer(1, 10**6),
        default=1024,
        metavar="N",
        help="open connections before 503",
    )
    limits.add_argument(
        "--max-body-size",
        type=num_bytes,
        default=4 << 20,
        metavar="SIZE",
        help="of a request (default: 4MiB)",
    )
    limits.add_argument(
        "--step-timeout",
        type=duration,
        default=300.0,
        metavar="TIME",
        help="an engine that takes longer for one step is hung, and started again (default: 300s)",
    )
    limits.add_argument(
        "--drain-timeout", type=seconds, default=30.0, metavar="S", help="for running requests after SIGTERM"
    )
    log = parser.add_argument_group("log")
    log.add_argument("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    log.add_argument("--log-format", choices=("text", "json"), default="text")
    log.add_argument(
        "--otlp-endpoint",
        default="",
        metavar="URL",
        help="send a trace of each request there, as OTLP over HTTP (needs pagedc[otlp])",
    )


def _add_engine_options(group: "argparse._ArgumentGroup | argparse.ArgumentParser") -> None:
    group.add_argument("--max-num-seqs", type=integer(1, 65536), metavar="N", help="sequences in one step")
    group.add_argument(
        "--max-num-batched-tokens", type=integer(1, 1 << 20), metavar="N", help="tokens in one step"
    )
    group.add_argument(
        "--max-model-len", type=integer(1, 1 << 30), metavar="N", help="tokens of prompt and answer"
    )
    group.add_argument(
        "--no-prefix-cache", action="store_true", help="never reuse the KV cache of an equal prefix"
    )


def _add_chat(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("target", metavar="PACKAGE|URL", help="a package, or the address of a server")
    parser.add_argument("--system", metavar="TEXT", help="the system's message")
    parser.add_argument("--temperature", type=number(0, 2), help="0 = always the likeliest token")
    parser.add_argument("--max-tokens", type=integer(1, 1 << 30), metavar="N", help="of one answer")
    parser.add_argument("--seed", type=integer(-(2**63), 2**63 - 1), help="the same answers again")
    parser.add_argument("--model", metavar="NAME", help="at a URL: which model (default: the first)")
    parser.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="at a URL: its first line is the key"
    )
    _add_own_engine(parser)


def _add_own_engine(parser: argparse.ArgumentParser) -> None:
    engine = parser.add_argument_group("engine, for a PACKAGE")
    engine.add_argument(
        "--memory", type=num_bytes, metavar="SIZE", help="for weights, activations and KV cache, like 8GiB"
    )
    engine.add_argument(
        "--threads", type=integer(1, 4096), metavar="N", help="default: the cores of this process"
    )
    _add_engine_options(engine)


def _add_batch(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "A run that was interrupted goes on where it ended when the same files are named again."
    parser.add_argument("target", metavar="PACKAGE|URL", help="a package, or the address of a server")
    parser.add_argument("input", type=Path, metavar="INPUT.jsonl", help="requests in OpenAI's batch format")
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="OUTPUT.jsonl", help="what became of each"
    )
    parser.add_argument(
        "--api-key-file", type=Path, metavar="FILE", help="at a URL: its first line is the key"
    )
    _add_own_engine(parser)


def _add_inspect(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("package", type=Path, metavar="PACKAGE", help="directory that `pagedc compile` made")
    parser.add_argument("--json", action="store_true", help="for a machine")


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "With --against MODEL its logits are measured too: see `pagedc verify --against MODEL --help`."
    )
    parser.add_argument("package", type=Path, metavar="PACKAGE", help="directory that `pagedc compile` made")
    parser.add_argument("--json", action="store_true", help="for a machine")


def _serve(options: argparse.Namespace) -> int:
    import gc

    from pagedc.runtime.engine_spawn import spawn_engine

    gc.disable()  # until it is ready: looking for garbage takes 8 % of the imports, and finds none
    spawned = []
    try:
        for path in options.package:
            spawned.append(spawn_engine(path))  # they import while this process does
        from pagedc.runtime.serve import serve

        return serve(options, spawned)
    finally:
        for engine in spawned:
            engine.end()
        gc.enable()


def _chat(options: argparse.Namespace) -> int:
    from pagedc.runtime.chat import chat

    return chat(options)


def _batch(options: argparse.Namespace) -> int:
    from pagedc.runtime.batch_command import run_batch

    return run_batch(options)


def _inspect(options: argparse.Namespace) -> int:
    from pagedc.runtime.inspect_package import inspect_package

    return inspect_package(options.package, as_json=options.json)


def _verify(options: argparse.Namespace) -> int:
    from pagedc.runtime.verify_package import verify_package

    return verify_package(options.package, as_json=options.json)


def _bench(options: argparse.Namespace) -> int:
    from pagedc.runtime.bench.options import run_bench

    return run_bench(options)


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "serve": _serve,
    "chat": _chat,
    "batch": _batch,
    "inspect": _inspect,
    "verify": _verify,
    "bench": _bench,
}


if __name__ == "__main__":
    sys.exit(main())
