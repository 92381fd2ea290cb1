"""A small package that is whole and valid, for tests to open and to break; its program is no library."""

import hashlib
import json
import platform
from pathlib import Path
from typing import Any

import numpy as np

from pagedc.runtime.manifest import (
    ABI_VERSION,
    SCHEMA_VERSION,
    FileEntry,
    KVCache,
    Limits,
    Manifest,
    Memory,
    Model,
    Target,
    Weight,
    dump_manifest,
    manifest_path,
)

WEIGHTS = {"embedding": np.arange(64, dtype=np.float32).reshape(16, 4), "norm": np.ones(4, np.float32)}


def write_safetensors(path: Path, header: dict[str, Any], data: bytes) -> None:
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % 64)
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def make_manifest(files: dict[str, FileEntry], **changes: Any) -> Manifest:
    values: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "pagedc_version": "0.1.0",
        "abi_version": ABI_VERSION,
        "model": Model("tiny", "llama", 68, 1, 256, 128, bos_token_id=1, eos_token_ids=[0]),
        "target": Target("cpu", platform.machine(), "native", [], "this machine"),
        "dtype": "float32",
        "quantization": "none",
        "program": "kernels/model.so",
        "kv_cache": KVCache("float32", 16, 1024),
        "limits": Limits(max_model_len=128, max_num_seqs=4, max_num_batched_tokens=64),
        "memory": Memory(weights_bytes=272, arena_bytes_per_token=64, logits_bytes_per_row=1024),
        "weights": [
            Weight("norm", "weights/model.safetensors", "f32", [4]),
            Weight("embedding", "weights/model.safetensors", "f32", [16, 4]),
        ],
        "files": files,
    }
    return Manifest(**(values | changes))


def seal(package: Path, **changes: Any) -> None:
    """Write the manifest of what the directory holds now."""
    manifest_path(package).unlink(missing_ok=True)
    files = {
        path.relative_to(package).as_posix(): FileEntry(
            path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()
        )
        for path in sorted(package.rglob("*"))
        if path.is_file()
    }
    manifest_path(package).write_bytes(dump_manifest(make_manifest(files, **changes)))


def make_package(package: Path, **changes: Any) -> Path:
    for folder in ("kernels", "weights", "tokenizer"):
        (package / folder).mkdir(parents=True)
    (package / "kernels" / "model.so").write_bytes(b"no library")
    (package / "tokenizer" / "tokenizer.json").write_text("{}")
    header: dict[str, Any] = {}
    data = b""
    for name, array in WEIGHTS.items():
        begin = len(data)
        data += array.tobytes()
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [begin, len(data)]}
    write_safetensors(package / "weights" / "model.safetensors", header, data)
    seal(package, **changes)
    return package
