"""What a package carries for those that run it: README, launcher, Dockerfile, Kubernetes manifest."""

import json
import platform
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import pagedc
from pagedc.compiler.render import environment
from pagedc.compiler.seal import PackageWriter
from pagedc.runtime.manifest import MANIFEST_NAME, Manifest

MIB = 1 << 20
SEQUENCES = 8  # that a pod has room for at their full length, unless the package serves fewer
PROCESS_MIB = 512  # of Python, the tokenizer and the server
# Of the memory beside the weights, what the runtime gives the KV cache when nobody says.
KV_CACHE_SHARE = 0.4
DISTRIBUTIONS = {"cpu": "pagedc", "cuda": "pagedc[cuda]"}
KUBERNETES_ARCHS = {"x86_64": "amd64", "aarch64": "arm64"}
FILES = {
    "model.cpp": "the program, to be read: one token can be followed through it",
    "model.py": "the program, to be read: one token can be followed through it",
    "kernels/": "what the program calls, as source and built",
    "launcher/": "loads those kernels and runs them",
    "weights/": "packed for those kernels, memory-mapped",
    "tokenizer/": "vocabulary, chat template, generation defaults",
    "graph.onnx": "the fused graph in standard operators; opens in Netron",
    "tuning.json": "the kernels that were timed, if any, and what was chosen",
    "report.html": "the same as a page",
    "serve": "starts the server",
    "Dockerfile": "an image of this folder",
    "k8s.yaml": "a deployment of that image",
    MANIFEST_NAME: "facts, limits, memory plan, and the hash of every file",
}


class Line(NamedTuple):
    """One row of a table of the README."""

    label: str
    value: str


def write_package_files(writer: PackageWriter, manifest: Manifest, source: str) -> None:
    """Write them from the facts of the manifest; `source` is where the checkpoint came from. Call it last."""
    templates = environment()
    own = ["README.md", "serve", "Dockerfile", "k8s.yaml"]
    held = [*writer.names(), *own, MANIFEST_NAME]
    values = {
        "name": one_line(manifest.model.name),
        "json_name": json.dumps(one_line(manifest.model.name), ensure_ascii=False)[1:-1].replace(
            "'", "'\\''"
        ),
        "slug": slug(manifest.model.name),
        "pagedc_version": manifest.pagedc_version,
        "requirement": f"{DISTRIBUTIONS[manifest.target.kind]}=={manifest.pagedc_version}",
        "device_name": one_line(manifest.target.device_name),
        "python": shlex.quote(sys.executable or "python3"),
        "pagedc": shlex.quote(str(Path(pagedc.__file__).absolute())),
        "kubernetes_arch": KUBERNETES_ARCHS.get(manifest.target.arch, ""),
        "memory_mib": memory_mib(manifest),
        "facts": facts(manifest, source),
        "files": [
            Line(name, text) for name, text in FILES.items() if any(_is_at(path, name) for path in held)
        ],
    }
    for name in own:
        text = templates.get_template(f"package/{name}.jinja").render(values)
        writer.write_text(name, text, executable=name == "serve")


def facts(manifest: Manifest, source: str) -> list[Line]:
    """What the README says of the model."""
    model, target, limits = manifest.model, manifest.target, manifest.limits
    quantized = "" if manifest.quantization == "none" else f", {manifest.quantization} weights"
    kv_bytes = _kv_bytes_per_token(manifest)
    return [
        Line(
            "model",
            f"{one_line(model.model_type)}, {model.num_parameters:,} parameters, {model.num_layers} layers",
        ),
        Line("from", one_line(source)),
        Line("runs on", f"{target.kind}, {target.arch} ({target.level})"),
        Line("numbers", f"{manifest.dtype}{quantized}"),
        Line("weights", f"{manifest.memory.weights_bytes / MIB:,.0f} MiB"),
        Line("KV cache", f"{kv_bytes / 1024:,.1f} KiB a token, {manifest.kv_cache.dtype}"),
        Line("longest sequence", f"{limits.max_model_len:,} tokens"),
        Line("sequences in a step", f"{limits.max_num_seqs:,}"),
        Line("tokens in a step", f"{limits.max_num_batched_tokens:,}"),
        Line("compiled with", f"pagedc {manifest.pagedc_version}, Python {platform.python_version()}"),
    ]


def memory_mib(manifest: Manifest) -> int:
    """Memory for a pod, in MiB: the weights, a step, and the KV cache of some full sequences."""
    limits, memory = manifest.limits, manifest.memory
    step = (
        memory.arena_bytes_per_token * limits.max_num_batched_tokens
        + memory.logits_bytes_per_row * limits.max_num_seqs
    )
    sequences = min(limits.max_num_seqs, SEQUENCES)
    kv_cache = _kv_bytes_per_token(manifest) * limits.max_model_len * sequences / KV_CACHE_SHARE
    return int((memory.weights_bytes + step + kv_cache) / MIB) + PROCESS_MIB


def slug(name: str) -> str:
    """A name that images and Kubernetes accept: "SmolLM2-135M-Instruct" → "smollm2-135m-instruct"."""
    words = re.findall(r"[a-z0-9]+", name.lower())
    return "-".join(words)[:63].strip("-") or "model"


def one_line(text: str) -> str:
    """A text of a stranger's, safe in a table of Markdown."""
    return re.sub(
        r"[\s|`<>]+", " ", "".join(character for character in text if character.isprintable())
    ).strip()


def _kv_bytes_per_token(manifest: Manifest) -> float:
    return manifest.kv_cache.bytes_per_block / manifest.kv_cache.block_size


def _is_at(path: str, name: str) -> bool:
    return path.startswith(name) if name.endswith("/") else path == name
