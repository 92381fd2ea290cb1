"""The words of `pagedc bench`."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from pagedc.runtime.bench.workload import LAST_ID, Lengths, parse_lengths
from pagedc.runtime.errors import UsageError
from pagedc.runtime.option_values import integer, number

T = TypeVar("T")
_count = integer(1, 10**7)


def add_bench(parser: argparse.ArgumentParser) -> None:
    """Its four commands."""
    commands = parser.add_subparsers(dest="bench", required=True, metavar="WHAT")
    _add_latency(commands.add_parser("latency", help="one sequence: prefill and decode"))
    _add_throughput(commands.add_parser("throughput", help="many sequences, offline"))
    _add_serve(commands.add_parser("serve", help="a load on any server of the OpenAI API"))
    _add_startup(commands.add_parser("startup", help="process start, ready, first token"))


def run_bench(options: argparse.Namespace) -> int:
    """Measure, then print a table or JSON, and draw."""
    from pagedc.runtime.bench import show

    if getattr(options, "plot", None):
        show.check_plot()  # before minutes are spent
    figures = _MEASURES[options.bench](options)
    if options.json:
        print(json.dumps(figures, indent=2))
    else:
        show.print_figures(options.bench, figures)
    if getattr(options, "plot", None):
        show.plot(figures["loads"], options.plot)
    return 0


def _add_latency(parser: argparse.ArgumentParser) -> None:
    _add_package(parser)
    parser.add_argument(
        "--input-len", type=_count, nargs="+", default=[128, 1024], metavar="N", help="tokens of the prompt"
    )
    parser.add_argument("--output-len", type=_count, default=64, metavar="N", help="tokens after it")
    parser.add_argument("--runs", type=_count, default=5, metavar="N")


def _add_throughput(parser: argparse.ArgumentParser) -> None:
    _add_package(parser)
    _add_lengths(parser)
    parser.add_argument("--num-requests", type=_count, default=64, metavar="N")
    parser.add_argument("--max-num-seqs", type=_count, metavar="N", help="sequences in one step")


def _add_serve(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("url", metavar="URL", help="of the server: http://127.0.0.1:8000")
    add("--model", metavar="NAME", help="default: the first that the server lists")
    add("--api-key-file", type=Path, metavar="FILE", help="its first line is the key")
    add("--chat", action="store_true", help="ask /v1/chat/completions, not /v1/completions")
    add("--prompts", type=Path, metavar="FILE", help="a line each: text, or JSON with prompt and max_tokens")
    _add_lengths(parser)
    add(
        "--max-token-id",
        type=_count,
        default=LAST_ID,
        metavar="N",
        help="of drawn prompts: for a vocabulary smaller than most (default: %(default)s)",
    )
    add("--num-requests", type=_count, default=64, metavar="N", help="of each load (default: %(default)s)")
    add(
        "--rate",
        type=number(0.001, 1e6),
        nargs="+",
        metavar="R",
        help="requests a second; several = one load each",
    )
    add("--concurrency", type=_count, nargs="+", metavar="N", help="requests at a time; several, likewise")
    add(
        "--burstiness",
        type=number(0.001, 1000),
        default=1.0,
        metavar="B",
        help="of arrivals, with --rate: 1 = Poisson, less = bursts, more = evenly",
    )
    add("--slo", nargs="+", default=[], metavar="NAME:MS", help="ttft:500 tpot:50 e2el:9000: goodput")
    add("--stop-at-eos", action="store_true", help="let the model end an answer; a server without ignore_eos")
    add("--warmup", type=integer(0, 10**7), default=1, metavar="N", help="requests before the first load")
    add("--timeout", type=number(0.001, 86400), default=600.0, metavar="S", help="of one request")
    add("--plot", type=Path, metavar="FILE", help="latency against load, as a .png, .svg or .pdf")
    add("--json", action="store_true", help="for a machine")


def _add_startup(parser: argparse.ArgumentParser) -> None:
    _add_package(parser)
    parser.add_argument("--runs", type=_count, default=5, metavar="N", help="cold and warm, each")


def _add_package(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("package", type=Path, metavar="PACKAGE")
    parser.add_argument("--threads", type=_count, metavar="N", help="default: the cores of this process")
    parser.add_argument("--json", action="store_true", help="for a machine")


def _add_lengths(parser: argparse.ArgumentParser) -> None:
    for name, what in (("--input-len", "of a prompt"), ("--output-len", "of an answer")):
        parser.add_argument(
            name,
            type=_word(parse_lengths),
            default=Lengths(128, 128),
            metavar="N|A:B",
            help=f"tokens {what}, or a range to draw from (default: 128)",
        )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of lengths, prompts and arrivals")


def _latency(options: argparse.Namespace) -> dict[str, Any]:
    from pagedc.runtime.bench.latency import measure_latency

    return measure_latency(
        options.package, options.input_len, options.output_len, options.runs, options.threads
    )


def _throughput(options: argparse.Namespace) -> dict[str, Any]:
    from pagedc.runtime.bench.throughput import measure_throughput

    return measure_throughput(
        options.package,
        options.num_requests,
        options.input_len,
        options.output_len,
        num_threads=options.threads,
        max_num_seqs=options.max_num_seqs,
        seed=options.seed,
    )


def _serve(options: argparse.Namespace) -> dict[str, Any]:
    from pagedc.runtime.bench.figures import parse_objectives
    from pagedc.runtime.bench.load import Load
    from pagedc.runtime.bench.recording import address_of
    from pagedc.runtime.bench.serving import measure_serving, served_model
    from pagedc.runtime.bench.workload import drawn, from_file

    try:
        objectives = parse_objectives(options.slo)
        key = options.api_key_file.read_text().split()[0] if options.api_key_file else ""
        path = "/v1/chat/completions" if options.chat else "/v1/completions"
        address = address_of(options.url, path, key)
    except (ValueError, OSError, IndexError) as error:
        raise UsageError(str(error)) from None
    if options.rate and options.concurrency and len(options.concurrency) > 1:
        raise UsageError("--rate takes one --concurrency at most")
    most = options.concurrency[0] if options.concurrency else None
    if options.rate:
        loads = [Load(rate, options.burstiness, most) for rate in options.rate]
    else:
        loads = [Load(concurrency=count) for count in options.concurrency or [16]]
    count, seed = options.num_requests, options.seed
    if options.prompts:
        asks = from_file(options.prompts, count, options.output_len, seed)
    else:
        asks = drawn(count, options.input_len, options.output_len, seed, options.max_token_id)
    model = options.model or served_model(address)
    rows = measure_serving(
        address,
        asks,
        loads,
        model=model,
        chat=options.chat,
        ignore_eos=not options.stop_at_eos,
        objectives=objectives,
        warmup=options.warmup,
        timeout=options.timeout,
        seed=seed,
    )
    return {"url": options.url, "model": model, "loads": rows}


def _startup(options: argparse.Namespace) -> dict[str, Any]:
    from pagedc.runtime.bench.startup import measure_startup

    return measure_startup(options.package, options.runs, options.threads)


_MEASURES: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "latency": _latency,
    "throughput": _throughput,
    "serve": _serve,
    "startup": _startup,
}


def _word(parse: Callable[[str], T]) -> Callable[[str], T]:
    def checked(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return checked
