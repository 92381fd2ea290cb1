"""The compiler's commands: words in, an exit code out. What they do lies in the modules they call.

Errors of `compiler.errors` become one line and an exit code here, and nowhere else.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NoReturn, get_args

from pagedc.compiler.adapter import read_adapter
from pagedc.compiler.errors import CompileError, OptionError, VerificationError
from pagedc.compiler.model_name import model_path
from pagedc.compiler.options import (
    CompileOptions,
    CpuLevel,
    DType,
    KVCacheDType,
    Quantization,
    Target,
    default_output,
    default_threads,
)
from pagedc.compiler.progress import SilentProgress, progress_for
from pagedc.compiler.report import load_manifest, print_report, report_as_dict
from pagedc.compiler.seal import check_output, make_folder
from pagedc.compiler.tuning import Mode, read_tuning


def main(argv: list[str]) -> int:
    """Run the command that is the first of `argv`, and return its exit code."""
    arguments = parse(argv)
    try:
        code: int = arguments.run(arguments)
    except CompileError as error:
        print(f"pagedc: error: {error}", file=sys.stderr)
        return error.exit_code
    return code


def parse(argv: list[str]) -> argparse.Namespace:
    """The words as options; a wrong one ends the process with exit code 2."""
    return _parser().parse_args(argv)


class _Parser(argparse.ArgumentParser):
    """One line for a wrong word, not the whole usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(OptionError.exit_code, f"pagedc: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="pagedc", allow_abbrev=False)
    commands = parser.add_subparsers(required=True)
    _add_compile(commands.add_parser("compile", help="compile a model into a package", allow_abbrev=False))
    _add_report(commands.add_parser("report", help="show what a compile made", allow_abbrev=False))
    _add_tune(commands.add_parser("tune", help="time a package's kernels here", allow_abbrev=False))
    _add_verify(commands.add_parser("verify", help="measure a package against its model", allow_abbrev=False))
    return parser


def _add_compile(parser: argparse.ArgumentParser) -> None:
    parser.description = "Compile a model into a package: a directory that serves itself."
    parser.set_defaults(run=_compile)
    add = parser.add_argument
    add("model", help="a Hugging Face directory, a hub id, a .gguf file, or smollm2-135m")
    add("-o", "--output", type=Path, metavar="DIR", help="the package (default: MODEL.pagedc, here)")
    add("--target", choices=get_args(Target), default="cpu", help="what it runs on (default: %(default)s)")
    add(
        "--cpu",
        choices=get_args(CpuLevel),
        default="native",
        help="the instructions it may use: this machine's, or a level that more machines have",
    )
    add(
        "--dtype",
        choices=get_args(DType),
        default="auto",
        help="of weights and KV cache (auto: the model's own)",
    )
    add(
        "--quantize",
        choices=get_args(Quantization),
        default="auto",
        help="auto keeps a quantised checkpoint as it is, none expands it",
    )
    add(
        "--kv-cache-dtype",
        choices=get_args(KVCacheDType),
        default="auto",
        help="fp8 halves the KV cache of a GPU from sm_90 on (auto: as --dtype)",
    )
    _add_lora(parser)
    add(
        "--max-model-len",
        type=int,
        metavar="N",
        help="longest sequence, prompt included (default: the model's)",
    )
    add(
        "--max-num-seqs", type=int, metavar="N", default=64, help="sequences in a step (default: %(default)s)"
    )
    add(
        "--max-num-batched-tokens",
        type=int,
        metavar="N",
        default=512,
        help="tokens in a step (default: %(default)s)",
    )
    add(
        "--threads",
        type=int,
        metavar="N",
        default=default_threads(),
        help="to compile with (%(default)s)",
    )
    add(
        "--tune",
        choices=get_args(Mode),
        default="none",
        help="time kernels on this machine for up to 15 s or 3 minutes; a GPU's are compiled first "
        "(default: %(default)s)",
    )
    add("--tuning", type=Path, metavar="FILE", help="choose as a tuning.json says, and time nothing")
    add("--random-weights", action="store_true", help="draw the weights: a config alone is enough")
    add("--onnx", action="store_true", help="write the graph as graph.onnx too, in standard operators")
    add("--dump-ir", type=Path, metavar="DIR", help="write the graph after the trace and each pass, as text")
    add("--json", action="store_true", help="print the report as JSON and no progress")


def _compile(arguments: argparse.Namespace) -> int:
    output = default_output(arguments.model) if arguments.output is None else arguments.output
    options = CompileOptions(
        model=arguments.model,
        output=output,
        target=arguments.target,
        dtype=arguments.dtype,
        quantize=arguments.quantize,
        kv_cache_dtype=arguments.kv_cache_dtype,
        lora=_lora(arguments),
        max_model_len=arguments.max_model_len,
        max_num_seqs=arguments.max_num_seqs,
        max_num_batched_tokens=arguments.max_num_batched_tokens,
        cpu=arguments.cpu,
        random_weights=arguments.random_weights,
        onnx=arguments.onnx,
        dump_ir=arguments.dump_ir,
        threads=arguments.threads,
        tune=arguments.tune,
        tuning=arguments.tuning,
    )
    # What is wrong is refused before the seconds of an import.
    model_path(arguments.model, random_weights=arguments.random_weights)
    if options.lora is not None:
        read_adapter(options.lora)
    check_output(options.output)
    if options.tuning is not None:
        read_tuning(options.tuning)
    if options.dump_ir is not None:
        make_folder(options.dump_ir)
    progress = SilentProgress() if arguments.json else progress_for()
    with progress.phase("import"):
        from pagedc.compiler.compile import compile_model  # torch and transformers: seconds
    package = compile_model(options, progress)
    if arguments.json:
        print(json.dumps(report_as_dict(package, progress.times), indent=2))
    else:
        _print_report(package, progress.seconds)
    return 0


def _add_lora(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--lora",
        metavar="[NAME=]DIR",
        action="append",
        help="merge a LoRA adapter into the weights; the model is then called MODEL-NAME",
    )


def _lora(arguments: argparse.Namespace) -> str | None:
    """The one adapter that was asked for. Raises OptionError for several."""
    given: list[str] = arguments.lora or []
    if len(given) > 1:
        raise OptionError(
            f"--lora is given {len(given)} times: a package has one set of weights; "
            "compile one for each adapter, and serve them side by side: pagedc serve A.pagedc B.pagedc"
        )
    return given[0] if given else None


def _add_report(parser: argparse.ArgumentParser) -> None:
    parser.description = "Show what a compile made: the package, its size, and the kernels that were timed."
    parser.set_defaults(run=_report)
    parser.add_argument("package", type=Path)
    parser.add_argument("--json", action="store_true", help="the same for a machine")


def _report(arguments: argparse.Namespace) -> int:
    if arguments.json:
        print(json.dumps(report_as_dict(arguments.package), indent=2))
    else:
        _print_report(arguments.package, None)
    return 0


def _add_tune(parser: argparse.ArgumentParser) -> None:
    parser.description = "Time a package's kernels on this machine, and build it again with the fastest."
    parser.set_defaults(run=_tune)
    add = parser.add_argument
    add("package", type=Path)
    add("--tune", choices=("quick", "full"), default="quick", help="how long (default: %(default)s)")
    add("--tuning", type=Path, metavar="FILE", help="choose as a tuning.json says, and time nothing")
    add("--threads", type=int, metavar="N", default=default_threads(), help="to run on (%(default)s)")
    add("--json", action="store_true", help="print the report as JSON and no progress")


def _tune(arguments: argparse.Namespace) -> int:
    if not 1 <= arguments.threads <= 1024:
        raise OptionError(f"threads is {arguments.threads}, not in [1, 1024]")
    progress = SilentProgress() if arguments.json else progress_for()
    from pagedc.compiler.targets.cpu.retune import retune

    retune(arguments.package, arguments.tune, arguments.tuning, arguments.threads, progress)
    if arguments.json:
        print(json.dumps(report_as_dict(arguments.package, progress.times), indent=2))
    else:
        _print_report(arguments.package, progress.seconds)
    return 0


def _add_verify(parser: argparse.ArgumentParser) -> None:
    parser.description = "Measure a package's logits against its model's, in float32 with the same weights."
    parser.set_defaults(run=_verify)
    add = parser.add_argument
    add("package", type=Path)
    add("--against", metavar="MODEL", required=True, help="what it was compiled from")
    add("--tokens", type=int, metavar="N", default=2000, help="of English to compare (default: %(default)s)")
    add("--threads", type=int, metavar="N", default=default_threads(), help="of either side (%(default)s)")
    add("--random-weights", action="store_true", help="MODEL was compiled with random weights")
    _add_lora(parser)
    add("--json", action="store_true", help="for a machine, and no progress")


def _verify(arguments: argparse.Namespace) -> int:
    for name, least in (("tokens", 2), ("threads", 1)):
        if getattr(arguments, name) < least:
            raise OptionError(f"{name} is {getattr(arguments, name)}, below {least}")
    lora = _lora(arguments)
    load_manifest(arguments.package)  # what is wrong is refused before the seconds of an import
    model_path(arguments.against, random_weights=arguments.random_weights)
    if lora is not None:
        read_adapter(lora)
    progress = SilentProgress() if arguments.json else progress_for()
    with progress.phase("import"):
        from pagedc.compiler.verify import print_verification, verification_as_dict, verify
    found = verify(
        arguments.package,
        arguments.against,
        progress,
        num_tokens=arguments.tokens,
        threads=arguments.threads,
        random_weights=arguments.random_weights,
        lora=lora,
    )
    if arguments.json:
        print(json.dumps(verification_as_dict(found), indent=2))
    else:
        from rich.console import Console

        print_verification(Console(), found)
    if found.shortfalls:
        missed = "; ".join(found.shortfalls)
        raise VerificationError(f"{found.package} departs from {found.against}: {missed}")
    return 0


def _print_report(package: Path, seconds: float | None) -> None:
    from rich.console import Console

    print_report(Console(), package, seconds)
