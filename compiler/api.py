"""`pagedc.compile(...)`: the Python spelling of `pagedc compile`."""

from dataclasses import fields
from pathlib import Path
from typing import TypedDict, Unpack

from pagedc.compiler.errors import OptionError
from pagedc.compiler.options import (
    CompileOptions,
    CpuLevel,
    DType,
    KVCacheDType,
    Quantization,
    Target,
    default_output,
)
from pagedc.compiler.progress import Progress, SilentProgress
from pagedc.compiler.tuning import Mode


class CompileKeywords(TypedDict, total=False):
    """Every option of `CompileOptions` but model and output, where each is explained."""

    target: Target
    dtype: DType
    quantize: Quantization
    kv_cache_dtype: KVCacheDType
    lora: str | None
    max_model_len: int | None
    max_num_seqs: int
    max_num_batched_tokens: int
    cpu: CpuLevel
    random_weights: bool
    onnx: bool
    dump_ir: Path | None
    threads: int
    tune: Mode
    tuning: Path | None


def compile(
    model: str | Path,
    output: str | Path | None = None,
    *,
    progress: Progress | None = None,
    **options: Unpack[CompileKeywords],
) -> Path:
    """Compile a model into a package directory and return its path.

    `model` is a Hugging Face directory, a hub id, a `.gguf` file or "smollm2-135m"; `output` is named after
    the model and lies in the working directory unless given. Raises one of `pagedc.compiler.errors`.
    """
    known = [field.name for field in fields(CompileOptions)]
    for name in options:
        if name not in known:
            raise OptionError(f"there is no option {name!r}; they are: {', '.join(known)}")
    chosen = CompileOptions(
        model=str(model), output=default_output(str(model)) if output is None else Path(output), **options
    )
    from pagedc.compiler.compile import compile_model  # imports torch: options are checked first

    return compile_model(chosen, SilentProgress() if progress is None else progress)
