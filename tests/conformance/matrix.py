"""docs/conformance.md: a line for every model type, and the totals."""

from collections.abc import Collection, Mapping
from typing import Any

HEADER = """# Conformance

Every model type of the causal-LM mapping of transformers {transformers}, its default config made small (few
layers, every kind of layer kept), with random weights in float32, compiled for the CPU and run in the engine:
one sequence in chunks and then token by token, several sequences in mixed batches, prompts that end within,
on and past the edges of blocks, and a prompt found in the prefix cache. *Matched* means that every logit lies
within 1e-4 of the largest of Hugging Face's own module. Written by `make conformance`.

{totals}

{missing}The types that are no decoder-only language models, and so are not counted in the second column:

{others}

| type | what the program holds | result |
| --- | --- | --- |
{rows}
"""


def write_matrix(
    results: Mapping[str, Mapping[str, Any]], transformers_version: str, missing: Collection[str] = ()
) -> str:
    """The text of the page; `results` as they are stored, by type, and the types that have none yet."""
    decoders = {name: found for name, found in results.items() if found["kind"] == "decoder"}
    return HEADER.format(
        transformers=transformers_version,
        totals=_totals(results, decoders),
        missing=f"**Not checked yet** ({len(missing)}): {', '.join(sorted(missing))}\n\n" if missing else "",
        others=_others(results),
        rows="\n".join(_row(name, results[name]) for name in sorted(results)),
    )


def _totals(results: Mapping[str, Mapping[str, Any]], decoders: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| | all types | decoder-only |", "| --- | ---: | ---: |"]
    for status in ("matched", "refused", "wrong", "failed", "timeout", "not built"):
        counts = [sum(r["status"] == status for r in part.values()) for part in (results, decoders)]
        if any(counts) or status in ("wrong", "failed", "timeout"):
            lines.append(f"| {MEANINGS[status]} | {counts[0]} | {counts[1]} |")
    lines.append(f"| total | {len(results)} | {len(decoders)} |")
    return "\n".join(lines)


MEANINGS = {
    "matched": "matched",
    "refused": "refused in one line",
    "wrong": "wrong logits",
    "failed": "ended in a traceback",
    "timeout": "did not end",
    "not built": "not built or not run by transformers itself",
}


def _others(results: Mapping[str, Mapping[str, Any]]) -> str:
    kinds: dict[str, list[str]] = {}
    for name, found in sorted(results.items()):
        if found["kind"] != "decoder":
            kinds.setdefault(found["kind"], []).append(name)
    return "\n".join(f"- {kind}: {', '.join(names)}" for kind, names in sorted(kinds.items())) or "none"


def _row(name: str, found: Mapping[str, Any]) -> str:
    result = found["status"]
    if result == "matched":
        result = f"matched, {found['error']:.0e}"
    elif found["detail"]:
        detail = found["detail"].replace("|", "\\|").replace("<", "\\<").replace("\n", " ")
        result = f"{result}: {detail}"
    return f"| {name} | {', '.join(found['features'])} | {result} |"
