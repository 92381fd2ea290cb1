"""The manifest of a package: the one contract between the compiler and the runtime."""

from pathlib import Path
from typing import Literal

import msgspec

SCHEMA_VERSION = 1
ABI_VERSION = 2
MANIFEST_NAME = "manifest.json"
# What decoding raises for bytes that are not the JSON asked for.
BROKEN_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the package, as it was when the package was sealed."""

    size: int  # bytes
    sha256: str


class Embedding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How its hidden states make embeddings."""

    pooling: Literal["mean", "last", "cls"] = "mean"  # where a request names none
    sizes: list[int] | None = None  # that it may be cut to; [] = any, None = it was not trained for it


class Model(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Facts of the checkpoint."""

    name: str
    model_type: str
    num_parameters: int
    num_layers: int
    vocab_size: int
    max_model_len: int
    bos_token_id: int | None = None
    eos_token_ids: list[int] = []
    hidden_size: int = 0  # of the rows that embeddings are made of; 0 = the program does not give them
    tool_parser: str = ""  # how it calls tools, of runtime/tool_parsers/formats.py; "" = in no known way
    reasoning_parser: str = ""  # how it thinks aloud; "" = it does not
    generates: bool = True  # False: a model without a head, for embeddings alone
    embedding: Embedding = Embedding()


class Target(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the package runs on."""

    kind: Literal["cpu", "cuda"]
    arch: str  # `uname -m` for a cpu ("x86_64", "aarch64"), "sm_90" for cuda
    level: str  # the value of --cpu that was compiled: "x86-64-v4", "native", …
    cpu_features: list[str]  # flags of /proc/cpuinfo that must be present
    device_name: str  # the machine it was built on


class KVCache(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shape of the paged cache."""

    dtype: Literal["float32", "bfloat16", "fp8"]  # fp8: e4m3, not scaled
    block_size: int  # tokens in a block
    bytes_per_block: int  # over all layers


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the memory plan was made for; a serve option may lower them, never raise them."""

    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int


class Memory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The memory plan, in bytes."""

    weights_bytes: int
    arena_bytes_per_token: int
    logits_bytes_per_row: int
    scratch_bytes: int = 0  # of kernels, whatever the batch
    state_bytes_per_seq: int = 0  # of layers that carry state from token to token; float32


class Weight(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One packed tensor, in the order that the program's `create` takes them."""

    name: str
    file: str  # relative to the package
    format: str  # of the packed layout: "f32", "bf16", "int4_g32_min", …
    shape: list[int]  # of the tensor before packing
    stripes: int = 1  # its rows are packed 16 of each of so many equal parts in turn


class Accuracy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What rounding the weights costs, by the model's own module in float32 on a short English text."""

    num_tokens: int
    perplexity: float  # with the package's weights
    reference_perplexity: float  # with the checkpoint's
    mean_kl: float  # of the first's distribution from the second's, in nats


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a runtime must know before it opens a package."""

    schema_version: int
    pagedc_version: str
    abi_version: int
    model: Model
    target: Target
    dtype: Literal["float32", "bfloat16"]
    quantization: str  # "none", "int4", "int8", or what the checkpoint was: "gguf", "awq", …
    program: str  # what is loaded: "kernels/model.so"
    kv_cache: KVCache
    limits: Limits
    memory: Memory
    weights: list[Weight]
    files: dict[str, FileEntry]  # every file of the package but the manifest itself
    accuracy: Accuracy | None = None  # where the compile rounded the weights and had the memory to measure it


def dump_manifest(manifest: Manifest) -> bytes:
    """The manifest as JSON: the same bytes for the same manifest."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=2) + b"\n"


def parse_manifest(data: bytes) -> Manifest:
    """Read a manifest; raises msgspec.ValidationError or msgspec.DecodeError naming what is wrong."""
    return msgspec.json.decode(data, type=Manifest)


def manifest_path(package: Path) -> Path:
    """Where the manifest of a package directory lies."""
    return package / MANIFEST_NAME
