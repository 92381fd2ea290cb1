"""`pagedc inspect`: what is in a package, for a person or a machine."""

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from pagedc.runtime.machine import lacks
from pagedc.runtime.package import Package


def inspect_package(path: Path, *, as_json: bool) -> int:
    """Print a package's facts, of whatever machine it is for; raises PackageError if it cannot be opened."""
    package = Package.open(path, to_run=False)
    missing = lacks(package.manifest)
    if as_json:
        facts = {
            "path": str(package.path),
            **describe(package),
            "lacks": missing,
            "manifest": msgspec.to_builtins(package.manifest),
        }
        print(json.dumps(facts, indent=2))
        return 0
    from rich.console import Console
    from rich.table import Table

    console = Console(file=sys.stdout)
    for title, rows in _tables(package).items():
        table = Table(
            title=title,
            title_justify="left",
            show_header=False,
            box=None,
            pad_edge=False,
            padding=(0, 2, 0, 0),
        )
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for name, value in rows.items():
            table.add_row(name, value)
        console.print(table)
        console.print()
    if missing is not None:
        console.print(
            f"this machine cannot serve it: {missing}", markup=False, highlight=False, soft_wrap=True
        )
    return 0


def describe(package: Package) -> dict[str, Any]:
    """Figures that follow from the manifest: bytes of files and of the KV cache, values by packed format."""
    manifest = package.manifest
    blocks = -(-manifest.limits.max_model_len // manifest.kv_cache.block_size)
    return {
        "files_bytes": sum(entry.size for entry in manifest.files.values()),
        "kv_cache_bytes_per_token": manifest.kv_cache.bytes_per_block // manifest.kv_cache.block_size,
        "kv_cache_bytes_per_sequence": blocks * manifest.kv_cache.bytes_per_block,
        "formats": dict(sorted(_bytes_by_format(package).items())),
    }


def package_facts(package: Package) -> dict[str, str]:
    """What there is to say of a package, line by line; no path of this machine is in it."""
    tables = _tables(package)
    parts = [table for title, table in tables.items() if title != "packed weights"]
    return {name: value for table in parts for name, value in table.items()}


def _bytes_by_format(package: Package) -> dict[str, int]:
    counts: dict[str, int] = {}
    for weight in package.manifest.weights:
        size = 1
        for length in weight.shape:
            size *= length
        counts[weight.format] = counts.get(weight.format, 0) + size
    return counts


def _tables(package: Package) -> dict[str, dict[str, str]]:
    manifest, facts = package.manifest, describe(package)
    model, target, limits = manifest.model, manifest.target, manifest.limits
    return {
        str(package.path): {
            "model": f"{model.name} ({model.model_type})",
            "parameters": f"{model.num_parameters:,} in {model.num_layers} layers",
            "vocabulary": f"{model.vocab_size:,} tokens",
            "weights": f"{manifest.dtype}, quantization {manifest.quantization}",
            "made by": f"pagedc {manifest.pagedc_version}, schema {manifest.schema_version}",
            "size": f"{_size(facts['files_bytes'])} in {len(manifest.files)} files",
        },
        "target": {
            "kind": f"{target.kind} {target.arch}, level {target.level}",
            "needs": " ".join(target.cpu_features) or "nothing in particular",
            "built on": target.device_name,
            "program": manifest.program,
        },
        "memory": {
            "weights": _size(manifest.memory.weights_bytes),
            "activations": f"{_size(manifest.memory.arena_bytes_per_token)} a token of a step",
            "logits": f"{_size(manifest.memory.logits_bytes_per_row)} a row",
            "KV cache": f"{manifest.kv_cache.dtype}, blocks of {manifest.kv_cache.block_size} tokens, "
            f"{_size(facts['kv_cache_bytes_per_token'])} a token, "
            f"{_size(facts['kv_cache_bytes_per_sequence'])} a sequence of full length",
            **_state(manifest.memory.state_bytes_per_seq),
        },
        "limits": {
            "max_model_len": f"{limits.max_model_len:,}",
            "max_num_seqs": f"{limits.max_num_seqs:,}",
            "max_num_batched_tokens": f"{limits.max_num_batched_tokens:,}",
        },
        "packed weights": {name: f"{count:,} values" for name, count in facts["formats"].items()},
    }


def _state(num_bytes: int) -> dict[str, str]:
    if num_bytes == 0:
        return {}
    return {"state": f"{_size(num_bytes)} a sequence; no prefix cache, for its blocks do not hold the state"}


def _size(num_bytes: int) -> str:
    size, unit = float(num_bytes), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            break
        size, unit = size / 1024, larger
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
