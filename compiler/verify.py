"""Measure a package against the model it was compiled from: `pagedc verify PACKAGE --against MODEL`.

The reference is the Hugging Face module in float32 with the package's own (dequantised) weights, so that
what is measured is the program, not the quantisation. Where that misses a floor though every module agrees,
the reference is run in bfloat16 too: a model that magnifies that rounding magnifies the program's as well,
and its floors are scaled. The package runs in a process of its own, as it does in service: without torch.
"""

import contextlib
import json
import math
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from tokenizers import Tokenizer

from pagedc.compiler.agreement import (
    BFLOAT16_KL,
    FLOAT32_FLOORS,
    MOST_TIMES,
    ROUNDED_FLOORS,
    Agreement,
    Comparison,
    Floors,
)
from pagedc.compiler.checkpoint import Checkpoint, open_checkpoint
from pagedc.compiler.english import ENGLISH
from pagedc.compiler.errors import OptionError, PackageError, VerificationError
from pagedc.compiler.layers import Module, compare_modules
from pagedc.compiler.progress import Progress
from pagedc.compiler.quantize import ROUNDED_FORMATS
from pagedc.compiler.reference import Reference, rounding_of
from pagedc.compiler.report import load_manifest
from pagedc.compiler.seal import sha256_of
from pagedc.runtime.manifest import Manifest

if TYPE_CHECKING:
    from rich.console import Console

MAX_SEQUENCE = 512  # tokens: attention of the reference takes memory by their square


class Verification(NamedTuple):
    """What was measured and what was demanded."""

    package: Path
    against: str
    agreement: Agreement
    floors: Floors
    modules: list[Module]  # in the order they run
    damaged: tuple[str, ...] = ()  # files of weights that are not as they were sealed
    in_bfloat16: Agreement | None = None  # of the reference run in bfloat16, where that scales the floors
    other_weights: str = ""  # how the package's weights were quantised, where the reference's are not

    @property
    def shortfalls(self) -> list[str]:
        """What is damaged, what misses its floor, and where it departs first; empty where all is well."""
        missed = [f"{name} is not what was compiled (sha256 differs)" for name in self.damaged]
        missed += self.agreement.shortfalls(self.floors)
        if missed and self.other_weights:
            missed.append(
                f"its weights are quantised ({self.other_weights}) and those of {self.against} are not: "
                "what is lost by that is in these figures"
            )
        if self.departure is not None:
            first = f"the first module that departs is {self.departure.path} ({self.departure.error:.1e})"
            return [*missed, first]
        if missed and self.modules and not self.damaged:
            missed.append(
                f"all {len(self.modules)} modules of its graph agree in float32, on its own weights: "
                "what departs is its program"
            )
        return missed

    @property
    def departure(self) -> Module | None:
        """The first module whose output is another."""
        return next((module for module in self.modules if module.departs), None)


def verify(
    package: Path,
    against: str,
    progress: Progress,
    *,
    num_tokens: int,
    threads: int,
    random_weights: bool = False,
    lora: str | None = None,
) -> Verification:
    """Compare the logits of `num_tokens` tokens of English; raises CompileError where that cannot be."""
    manifest = load_manifest(package)
    checkpoint = open_checkpoint(against, random_weights=random_weights, lora=lora)
    torch.set_num_threads(threads)
    with progress.phase("reference") as phase:
        reference = Reference(checkpoint, rounding_of(manifest))
        phase.note(f"{checkpoint.name} in float32")
    sequences = sequences_of(package, manifest, num_tokens)
    comparison = Comparison()
    with (
        progress.phase("compare", total=len(sequences)) as phase,
        _Package(package, manifest, threads) as measured,
    ):
        for token_ids in sequences:
            logits = measured.logits(token_ids)
            expected = reference.logits(token_ids)
            if expected.shape != logits.shape:
                raise VerificationError(
                    f"{against} has {expected.shape[-1]} logits, {package} {logits.shape[-1]}"
                )
            comparison.add(expected, logits, torch.tensor(token_ids[1:]))
            phase.advance()
    with progress.phase("modules") as phase:
        modules = compare_modules(package, manifest, checkpoint, reference, sequences[0])
        phase.note(f"{sum(not module.departs for module in modules)} of {len(modules)} agree")
    found = Verification(
        package,
        checkpoint.source,
        comparison.result(),
        FLOAT32_FLOORS if _is_exact(manifest) else ROUNDED_FLOORS,
        modules,
        damaged_weights(package, manifest),
        other_weights=_other_weights(manifest, checkpoint),
    )
    if _is_exact(manifest) or found.departure or found.damaged or not found.shortfalls:
        return found
    with progress.phase("bfloat16") as phase:
        rounded = _in_bfloat16(reference, sequences)
        phase.note("cannot be run" if rounded is None else f"mean KL {rounded.mean_kl:.4f}")
    if rounded is None or not rounded.mean_kl > BFLOAT16_KL:
        return found
    floors = found.floors.scaled(min(rounded.mean_kl / BFLOAT16_KL, MOST_TIMES))
    return found._replace(floors=floors, in_bfloat16=rounded)


def _in_bfloat16(reference: Reference, sequences: list[list[int]]) -> Agreement | None:
    """How near the reference is to itself, run in bfloat16; None where its code cannot be."""
    comparison, rounded = Comparison(), reference.in_bfloat16()
    for token_ids in sequences:
        expected = reference.logits(token_ids)
        try:
            logits = rounded.logits(token_ids)
        except RuntimeError:  # some code makes float32 of its own and multiplies it by parameters
            return None
        comparison.add(expected, logits, torch.tensor(token_ids[1:]))
    return comparison.result()


def _other_weights(manifest: Manifest, checkpoint: Checkpoint) -> str:
    """What a package keeps of a quantised checkpoint, where this one is not so; what `--quantize` rounds, the
    reference rounds too.
    """
    kept = manifest.quantization not in ("none", *ROUNDED_FORMATS)
    return manifest.quantization if kept and checkpoint.quantization == "none" else ""


def damaged_weights(package: Path, manifest: Manifest) -> tuple[str, ...]:
    """The files of weights that are not as they were sealed: all others are checked where a package opens."""
    return tuple(
        name
        for name in sorted({weight.file for weight in manifest.weights})
        if sha256_of(package / name) != manifest.files[name].sha256
    )


def verification_as_dict(found: Verification) -> dict[str, Any]:
    """For a machine; None is a figure beyond all measure, for which JSON has no number."""
    return {
        "package": str(found.package),
        "against": found.against,
        **_figures(found.agreement),
        "floors": {
            name: value for name, value in found.floors._asdict().items() if value not in (0, float("inf"))
        },
        "modules": {
            module.path: module.error if math.isfinite(module.error) else None for module in found.modules
        },
        "in_bfloat16": None if found.in_bfloat16 is None else _figures(found.in_bfloat16),
        "shortfalls": found.shortfalls,
    }


def _figures(agreement: Agreement) -> dict[str, float | None]:
    figures = agreement._asdict() | {"perplexity_change": agreement.perplexity_change}
    return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def print_verification(console: "Console", found: Verification) -> None:
    """For a person: each figure beside its floor."""
    from rich.table import Table

    agreement, floors = found.agreement, found.floors
    table = Table(title=f"{found.package} against {found.against}", title_justify="left", title_style="dim")
    table.add_column(f"{agreement.num_tokens} tokens of English")
    table.add_column("measured", justify="right")
    table.add_column("floor", justify="right")
    for name, value, floor in (
        (
            "top-1 agreement",
            f"{agreement.top1_agreement:.2%}",
            _floor("≥ {:.3g}%", 100 * floors.top1_agreement),
        ),
        ("mean KL", f"{agreement.mean_kl:.6f}", _floor("≤ {:.2g}", floors.mean_kl)),
        ("perplexity", f"{agreement.perplexity:.4f}", ""),
        ("perplexity of the reference", f"{agreement.reference_perplexity:.4f}", ""),
        (
            "change of perplexity",
            f"{agreement.perplexity_change:.3%}",
            _floor("≤ {:.2g}%", 100 * floors.perplexity_change),
        ),
        (
            "max relative error",
            f"{agreement.max_relative_error:.2e}",
            _floor("≤ {:g}", floors.max_relative_error),
        ),
    ):
        table.add_row(name, value, floor)
    console.print(table)
    if found.modules:
        worst = max(found.modules, key=lambda module: module.error)
        console.print(
            f"{len(found.modules)} modules in float32: largest error {worst.error:.1e}, {worst.path}",
            markup=False,
        )
    if (rounded := found.in_bfloat16) is not None:
        console.print(
            "the model magnifies rounding: in Hugging Face's bfloat16 it has, on the same weights, a "
            f"top-1 of {rounded.top1_agreement:.2%} and a KL of {rounded.mean_kl:.4f}: its floors are scaled",
            markup=False,
        )


def _floor(form: str, value: float) -> str:
    return "" if value in (0, float("inf")) else form.format(value)


def _is_exact(manifest: Manifest) -> bool:
    return manifest.dtype == "float32" and manifest.quantization == "none"


def sequences_of(package: Path, manifest: Manifest, num_tokens: int) -> list[list[int]]:
    """English as the package's tokenizer has it; random tokens where there is no tokenizer."""
    path = package / "tokenizer" / "tokenizer.json"
    if path.exists():
        ids: list[int] = Tokenizer.from_file(str(path)).encode(ENGLISH, add_special_tokens=False).ids
        ids = ids[:num_tokens]
    else:
        generator = random.Random(0)
        ids = [generator.randrange(manifest.model.vocab_size) for _ in range(num_tokens)]
    size = min(MAX_SEQUENCE, manifest.limits.max_model_len)
    if size < 2:
        raise OptionError(f"max_model_len of the package is {size}: no token follows another")
    return [ids[start : start + size] for start in range(0, len(ids), size) if len(ids) - start > 1]


class _Package:
    """The child process that runs the package."""

    def __init__(self, package: Path, manifest: Manifest, threads: int) -> None:
        self._package, self._vocab_size = package, manifest.model.vocab_size
        module = "pagedc.runtime.teacher_forcing"
        self._command = [sys.executable, "-P", "-m", module, str(package), "--threads", str(threads)]

    def __enter__(self) -> "_Package":
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.communicate()

    def logits(self, token_ids: list[int]) -> torch.Tensor:
        """[len(token_ids), vocab_size] float32. Raises PackageError or VerificationError with what
        the package said.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        num_bytes = 4 * len(token_ids) * self._vocab_size
        data = b""
        with contextlib.suppress(BrokenPipeError):  # it has ended: why is said below
            self._process.stdin.write(json.dumps(token_ids).encode() + b"\n")
            self._process.stdin.flush()
            data = self._process.stdout.read(num_bytes)
        if len(data) < num_bytes:
            _, said = self._process.communicate()
            lines = said.decode(errors="replace").strip().splitlines() or ["it ended without a word"]
            kind = PackageError if self._process.returncode == PackageError.exit_code else VerificationError
            raise kind(f"{self._package} does not run: {lines[-1]}")
        return torch.frombuffer(bytearray(data), dtype=torch.float32).view(len(token_ids), self._vocab_size)
