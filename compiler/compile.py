"""The pipeline on one screen: checkpoint, trace, passes, lower, emit, seal."""

import importlib.metadata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from pagedc.compiler.accuracy import measure
from pagedc.compiler.checkpoint import open_checkpoint
from pagedc.compiler.checkpoint.base import Checkpoint
from pagedc.compiler.checkpoint.chat_format import reasoning_parser, tool_parser
from pagedc.compiler.checkpoint.special_tokens import special_tokens
from pagedc.compiler.errors import OptionError
from pagedc.compiler.graph import Graph
from pagedc.compiler.lower import lower
from pagedc.compiler.options import CompileOptions
from pagedc.compiler.package_files import write_package_files
from pagedc.compiler.passes import run_passes
from pagedc.compiler.program import Program
from pagedc.compiler.progress import Phase, Progress
from pagedc.compiler.quantize import ROUNDED_FORMATS
from pagedc.compiler.report import accuracy_line
from pagedc.compiler.report_page import report_page
from pagedc.compiler.seal import PackageWriter
from pagedc.compiler.targets import open_target
from pagedc.compiler.targets.base import Facts, Target
from pagedc.compiler.tokenizer_form import fast_form
from pagedc.compiler.trace import trace
from pagedc.compiler.tuning import TUNING_NAME, dump_tuning
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
)
from pagedc.runtime.manifest import Weight as ManifestWeight

WEIGHTS_FILE = "weights/model.safetensors"
DEFAULT_MODEL_LEN = 2048  # of a config that names no longest sequence


def compile_model(options: CompileOptions, progress: Progress) -> Path:
    """Compile a checkpoint into a package directory and return its path. Raises a CompileError."""
    target = open_target(options)
    output = PackageWriter(options.output)
    with progress.phase("load") as phase:
        checkpoint = open_checkpoint(options.model, random_weights=options.random_weights, lora=options.lora)
        _max_model_len(checkpoint, options, None)  # refused now rather than after the trace
        phase.note(f"{checkpoint.name}, {checkpoint.config.model_type}")
    with progress.phase("trace") as phase:
        graph = trace(checkpoint.config)
        limit = "" if graph.max_tokens is None else f", for up to {graph.max_tokens} tokens"
        phase.note(f"{len(graph.nodes)} nodes{limit}")
    with progress.phase("passes") as phase:
        dtype = checkpoint.dtype if options.dtype == "auto" else options.dtype
        packer = WeightPacker(checkpoint, dtype, options.quantize, target.layout)
        changes = run_passes(graph, packer.format_of, options.dump_ir)
        phase.note(f"{changes['merge_linears']} linears merged, {len(graph.nodes)} nodes")
    drawing = _onnx(graph, packer, checkpoint, progress) if options.onnx else None
    with progress.phase("lower") as phase:
        program = lower(graph, target.print_body)
        phase.note(f"{len(program.calls)} calls, {len(program.row_functions)} row kernels")
    with progress.phase("formats") as phase:
        changed = packer.shrink(program.weights)
        phase.note(f"{changed} of {len(program.weights)} weights in fewer bits, without loss")
    limits = _limits(checkpoint, options, graph.max_tokens)
    kv_dtype = dtype if options.kv_cache_dtype == "auto" else options.kv_cache_dtype
    facts = Facts(checkpoint.name, _version(), dtype, limits, kv_dtype)
    if options.tune != "none" or options.tuning is not None:
        with progress.phase("tune") as phase:
            target.tune(program, facts, phase)
    with output as writer:
        with progress.phase("emit") as phase:
            phase.note(target.emit(writer, program, facts))
        with progress.phase("build") as phase:
            phase.note(target.build(writer))
        with progress.phase("pack", len(program.weights)) as phase:
            entries = packer.entries(program.weights)
            arrays = _counted(packer.arrays(program.weights), phase)
            write_weights(writer.path(WEIGHTS_FILE), entries, arrays)
            phase.note(f"{sum(entry.num_bytes for entry in entries) / 2**20:.0f} MiB")
        weights_bytes = sum(entry.num_bytes for entry in entries)
        manifest = _manifest(target, program, facts, weights_bytes, checkpoint, options)
        has_loss = checkpoint.purpose.generates and not options.random_weights
        if options.quantize in ROUNDED_FORMATS and has_loss:
            with progress.phase("accuracy") as phase:
                found = measure(checkpoint, manifest)
                phase.note(found if isinstance(found, str) else accuracy_line(found))
                if not isinstance(found, str):
                    manifest = msgspec.structs.replace(manifest, accuracy=found)
        with progress.phase("seal"):
            if drawing is not None:
                writer.write_bytes("graph.onnx", drawing)
            for name, data in checkpoint.tokenizer_files.items():
                writer.write_bytes(f"tokenizer/{name}", fast_form(data) if name == "tokenizer.json" else data)
            tuning = target.tuning()
            writer.write_bytes(TUNING_NAME, dump_tuning(tuning))
            writer.write_text("report.html", report_page(manifest, tuning, checkpoint.source))
            write_package_files(writer, manifest, checkpoint.source)
            return writer.finish(manifest)


def _counted(arrays: Iterable[NDArray[Any]], phase: Phase) -> Iterator[NDArray[Any]]:
    for array in arrays:
        phase.advance()
        yield array


def _onnx(graph: Graph, packer: WeightPacker, checkpoint: Checkpoint, progress: Progress) -> bytes:
    """The graph for others to read, before it is lowered."""
    from pagedc.compiler.onnx_export import export_onnx  # onnx: only who asks for it needs it

    with progress.phase("onnx") as phase:
        data = export_onnx(graph, packer.floats, checkpoint.name)
        phase.note(f"{len(data) / 2**20:.1f} MiB")
        return data


def _manifest(
    target: Target,
    program: Program,
    facts: Facts,
    weights_bytes: int,
    checkpoint: Checkpoint,
    options: CompileOptions,
) -> Manifest:
    tokens = special_tokens(checkpoint)
    weights = [
        ManifestWeight(w.name, WEIGHTS_FILE, w.format, list(w.shape), w.stripes) for w in program.weights
    ]
    return Manifest(
        schema_version=SCHEMA_VERSION,
        pagedc_version=facts.version,
        abi_version=ABI_VERSION,
        model=Model(
            name=facts.name,
            model_type=checkpoint.config.get_text_config().model_type,
            num_parameters=sum(int(np.prod(w.shape, dtype=np.int64)) for w in program.weights),
            num_layers=sum(call.kind == "attention" for call in program.calls),
            vocab_size=program.logits.width,
            max_model_len=facts.limits.max_model_len,
            bos_token_id=tokens.bos,
            eos_token_ids=tokens.eos,
            hidden_size=program.hidden_size if target.describe().kind == "cpu" else 0,
            tool_parser=tool_parser(checkpoint.tokenizer_files),
            reasoning_parser=reasoning_parser(checkpoint.tokenizer_files),
            generates=checkpoint.purpose.generates,
            embedding=checkpoint.purpose.embedding,
        ),
        target=target.describe(),
        dtype=facts.dtype,
        quantization=checkpoint.quantization if options.quantize == "auto" else options.quantize,
        program=target.program,
        kv_cache=KVCache(
            dtype=facts.kv_dtype,
            block_size=target.block_size,
            bytes_per_block=target.kv_block_bytes(program, facts),
        ),
        limits=facts.limits,
        memory=Memory(
            weights_bytes=weights_bytes,
            arena_bytes_per_token=program.arena_bytes["token"],
            logits_bytes_per_row=program.arena_bytes["row"],
            scratch_bytes=target.scratch_bytes,
            state_bytes_per_seq=target.state_bytes(program),
        ),
        weights=weights,
        files={},
    )


def _limits(checkpoint: Checkpoint, options: CompileOptions, traced: int | None) -> Limits:
    return Limits(
        max_model_len=_max_model_len(checkpoint, options, traced),
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
    )


def _max_model_len(checkpoint: Checkpoint, options: CompileOptions, traced: int | None) -> int:
    """The longest sequence of the config and of the trace, or a shorter one that was asked for."""
    config = checkpoint.config.get_text_config()
    longest = getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)
    known = [int(length) for length in (longest, traced) if length is not None]
    if options.max_model_len is None:
        return min(known, default=DEFAULT_MODEL_LEN)
    if known and options.max_model_len > min(known):
        raise OptionError(f"max_model_len is {options.max_model_len}, above the model's own {min(known)}")
    return options.max_model_len


def _version() -> str:
    """Of the installation; a source tree on PYTHONPATH has none."""
    try:
        return importlib.metadata.version("pagedc")
    except importlib.metadata.PackageNotFoundError:
        return "0+source"
