"""The pipeline on one screen: checkpoint, trace, passes, lower, emit, seal."""

import importlib.metadata
import platform
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

import pagedc.kernels.cpu as cpu_kernels
from pagedc.compiler.checkpoint import open_checkpoint
from pagedc.compiler.checkpoint.base import Checkpoint
from pagedc.compiler.checkpoint.special_tokens import special_tokens
from pagedc.compiler.errors import OptionError
from pagedc.compiler.lower import lower
from pagedc.compiler.options import CompileOptions
from pagedc.compiler.package_files import write_package_files
from pagedc.compiler.passes import run_passes
from pagedc.compiler.program import Program
from pagedc.compiler.progress import Phase, Progress
from pagedc.compiler.report import Tuning, dump_tuning
from pagedc.compiler.seal import PackageWriter
from pagedc.compiler.targets.cpu import toolchain
from pagedc.compiler.targets.cpu.emit import BLOCK_SIZE, emit, kv_block_bytes
from pagedc.compiler.targets.cpu.row_printer import print_body
from pagedc.compiler.trace import trace
from pagedc.compiler.weights import WeightPacker
from pagedc.compiler.weights_file import write_weights
from pagedc.runtime.manifest import (
    ABI_VERSION,
    SCHEMA_VERSION,
    KVCache,
    Limits,
    Manifest,
    Memory,
    Model,
    Target,
)
from pagedc.runtime.manifest import Weight as ManifestWeight

WEIGHTS_FILE = "weights/model.safetensors"
DEFAULT_MODEL_LEN = 2048  # of a config that names no longest sequence


def compile_model(options: CompileOptions, progress: Progress) -> Path:
    """Compile a checkpoint into a package directory and return its path. Raises a CompileError."""
    toolchain.compiler()  # before minutes are spent on what could not be finished
    output = PackageWriter(options.output)
    with progress.phase("load") as phase:
        checkpoint = open_checkpoint(options.model, random_weights=options.random_weights)
        phase.note(f"{checkpoint.name}, {checkpoint.config.model_type}")
    with progress.phase("trace") as phase:
        graph = trace(checkpoint.config)
        phase.note(f"{len(graph.nodes)} nodes")
    with progress.phase("passes") as phase:
        dtype = checkpoint.dtype if options.dtype == "auto" else options.dtype
        packer = WeightPacker(checkpoint, dtype, options.quantize)
        changes = run_passes(graph, packer.format_of, options.dump_ir)
        phase.note(f"{changes['merge_linears']} linears merged, {len(graph.nodes)} nodes")
    with progress.phase("lower") as phase:
        program = lower(graph, print_body)
        phase.note(f"{len(program.calls)} calls, {len(program.row_functions)} row kernels")
    with output as writer:
        with progress.phase("emit") as phase:
            source = _emit(writer, program, checkpoint, options, dtype)
            phase.note(f"model.cpp, {source.count(chr(10))} lines")
        with progress.phase("build") as phase:
            library = writer.path("kernels/model.so")
            toolchain.compile_library(writer.path("model.cpp"), library, options.cpu)
            phase.note(f"model.so, {library.stat().st_size >> 10} KiB")
        with progress.phase("pack", len(program.weights)) as phase:
            entries = packer.entries(program.weights)
            arrays = _counted(packer.arrays(program.weights), phase)
            write_weights(writer.path(WEIGHTS_FILE), entries, arrays)
            phase.note(f"{sum(entry.num_bytes for entry in entries) / 2**20:.0f} MiB")
        with progress.phase("seal"):
            for name, data in checkpoint.tokenizer_files.items():
                writer.write_bytes(f"tokenizer/{name}", data)
            writer.write_bytes("tuning.json", dump_tuning(Tuning(toolchain.device_name(), "none")))
            weights_bytes = sum(entry.num_bytes for entry in entries)
            manifest = _manifest(program, weights_bytes, checkpoint, options, dtype)
            write_package_files(writer, manifest, checkpoint.source)
            return writer.finish(manifest)


def _counted(arrays: Iterable[NDArray[Any]], phase: Phase) -> Iterator[NDArray[Any]]:
    for array in arrays:
        phase.advance()
        yield array


def _emit(
    writer: PackageWriter, program: Program, checkpoint: Checkpoint, options: CompileOptions, dtype: str
) -> str:
    """Write model.cpp and the headers that it includes; the package imports nothing of pagedc."""
    source = emit(
        program, checkpoint.name, _version(), options.cpu, "float" if dtype == "float32" else "bf16"
    )
    writer.write_text("model.cpp", source)
    for header in sorted(Path(cpu_kernels.__path__[0]).glob("*.h")):
        writer.write_text(f"kernels/{header.name}", header.read_text())
    return source


def _manifest(
    program: Program,
    weights_bytes: int,
    checkpoint: Checkpoint,
    options: CompileOptions,
    dtype: Literal["float32", "bfloat16"],
) -> Manifest:
    config = checkpoint.config.get_text_config()
    tokens = special_tokens(checkpoint)
    kv_type = "float" if dtype == "float32" else "bf16"
    attentions = [call for call in program.calls if call.kind == "attention"]
    weights = [ManifestWeight(w.name, WEIGHTS_FILE, w.format, list(w.shape)) for w in program.weights]
    max_model_len = _max_model_len(checkpoint, options)
    quantization = checkpoint.quantization if options.quantize == "auto" else options.quantize
    return Manifest(
        schema_version=SCHEMA_VERSION,
        pagedc_version=_version(),
        abi_version=ABI_VERSION,
        model=Model(
            name=checkpoint.name,
            model_type=config.model_type,
            num_parameters=sum(int(np.prod(w.shape, dtype=np.int64)) for w in program.weights),
            num_layers=len(attentions),
            vocab_size=program.logits.width,
            max_model_len=max_model_len,
            bos_token_id=tokens.bos,
            eos_token_ids=tokens.eos,
        ),
        target=Target(
            kind="cpu",
            arch=platform.machine(),
            level=options.cpu,
            cpu_features=toolchain.required_features(options.cpu),
            device_name=toolchain.device_name(),
        ),
        dtype=dtype,
        quantization=quantization,
        program="kernels/model.so",
        kv_cache=KVCache(
            dtype=dtype,
            block_size=BLOCK_SIZE,
            bytes_per_block=sum(kv_block_bytes(call, kv_type) for call in attentions),
        ),
        limits=Limits(
            max_model_len=max_model_len,
            max_num_seqs=options.max_num_seqs,
            max_num_batched_tokens=options.max_num_batched_tokens,
        ),
        memory=Memory(
            weights_bytes=weights_bytes,
            arena_bytes_per_token=program.arena_bytes["token"],
            logits_bytes_per_row=program.arena_bytes["row"],
        ),
        weights=weights,
        files={},
    )


def _max_model_len(checkpoint: Checkpoint, options: CompileOptions) -> int:
    """The config's longest sequence, or a shorter one that was asked for."""
    config = checkpoint.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    if options.max_model_len is None:
        return int(longest or DEFAULT_MODEL_LEN)
    if longest is not None and options.max_model_len > longest:
        raise OptionError(f"max_model_len is {options.max_model_len}, above the model's own {longest}")
    return options.max_model_len


def _version() -> str:
    return importlib.metadata.version("pagedc")
