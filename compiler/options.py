"""What a person may choose about a compile, checked at the door.

Nothing here reads the model: what "auto" means for dtype and quantisation is resolved by the pipeline, once
it has seen the checkpoint.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from pagedc.compiler.errors import OptionError
from pagedc.compiler.tuning import Mode

Target = Literal["cpu", "cuda", "cuda:sm_80", "cuda:sm_90", "cuda:sm_100", "cuda:interpreter"]
DType = Literal["auto", "float32", "bfloat16"]
Quantization = Literal["auto", "none", "int8", "int4"]
KVCacheDType = Literal["auto", "fp8"]
CpuLevel = Literal["native", "x86-64-v3", "x86-64-v4"]

PACKAGE_SUFFIX = ".pagedc"


def default_threads() -> int:
    """Cores that this process may use, not those of the machine: a container often has fewer."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_output(model: str) -> Path:
    """Where a package goes when nobody says: in this directory, named after the model.

    "smollm2-135m" → smollm2-135m.pagedc, "org/Name" → Name.pagedc, "dir/model.gguf" → model.pagedc.
    """
    name = Path(model).resolve().name if model in (".", "..") else Path(model).name
    return Path(name.removesuffix(".gguf") + PACKAGE_SUFFIX)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompileOptions:
    """Frozen, so that its fields are the key of everything derived from them. Raises OptionError."""

    model: str  # a directory, a hub id, a .gguf file, or "smollm2-135m"
    output: Path
    target: Target = "cpu"
    dtype: DType = "auto"
    quantize: Quantization = "auto"  # auto = keep the blocks of a quantised checkpoint, quantise nothing else
    kv_cache_dtype: KVCacheDType = "auto"  # auto = that of the weights
    lora: str | None = None  # DIR or name=DIR of an adapter to merge into the weights
    max_model_len: int | None = None  # None = the model's own
    max_num_seqs: int = 64
    max_num_batched_tokens: int = 512
    cpu: CpuLevel = "native"
    random_weights: bool = False
    onnx: bool = False  # write graph.onnx
    dump_ir: Path | None = None
    threads: int = field(default_factory=default_threads)
    tune: Mode = "none"
    tuning: Path | None = None  # a tuning.json: what it chose is taken, and nothing timed

    def __post_init__(self) -> None:
        if not self.model:
            raise OptionError("model is empty")
        _check_choice("target", self.target, get_args(Target))
        _check_choice("dtype", self.dtype, get_args(DType))
        _check_choice("quantize", self.quantize, get_args(Quantization))
        _check_choice("kv_cache_dtype", self.kv_cache_dtype, get_args(KVCacheDType))
        _check_choice("tune", self.tune, get_args(Mode))
        _check_choice("cpu", self.cpu, get_args(CpuLevel))
        if self.kv_cache_dtype == "fp8" and self.target == "cpu":
            raise OptionError("kv_cache_dtype is fp8, which is for GPUs: give --target cuda, or leave it out")
        if self.max_model_len is not None:
            _check_count("max_model_len", self.max_model_len, 2**24)
        _check_count("max_num_seqs", self.max_num_seqs, 4096)
        _check_count("max_num_batched_tokens", self.max_num_batched_tokens, 2**16)
        _check_count("threads", self.threads, 1024)
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise OptionError(
                f"max_num_batched_tokens is {self.max_num_batched_tokens}, below max_num_seqs, "
                f"{self.max_num_seqs}: a step decodes one token of every sequence"
            )


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{name} is {value!r}, not one of: {', '.join(choices)}")


def _check_count(name: str, value: int, maximum: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise OptionError(f"{name} is {value!r}, not a whole number")
    if not 1 <= value <= maximum:
        raise OptionError(f"{name} is {value}, not in [1, {maximum}]")
