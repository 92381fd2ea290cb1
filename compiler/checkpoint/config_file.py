"""config.json to a transformers config, with everything refused that pagedc does not run."""

from pathlib import Path

from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

from pagedc.compiler.checkpoint.shards import first_line, read_json
from pagedc.compiler.errors import CheckpointError, UnsupportedError
from pagedc.compiler.trace import quiet

CONFIG = "config.json"


def read_config(directory: Path) -> PretrainedConfig:
    """The config of a directory; code that a checkpoint brings along is never run."""
    path = directory / CONFIG
    if not path.is_file():
        raise CheckpointError(
            f"{directory}: no {CONFIG} in it; MODEL is a Hugging Face directory, a hub id or a .gguf file"
        )
    values = read_json(path)
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or not model_type:
        raise CheckpointError(f"{path}: no model_type in it")
    if model_type not in CONFIG_MAPPING:
        if "auto_map" in values:
            raise UnsupportedError(
                f"{model_type}: needs code of its own (auto_map in {path}), which pagedc never runs; "
                "only architectures of transformers itself compile"
            )
        raise UnsupportedError(
            f"{model_type}: not a model type of the installed transformers; try a newer one"
        )
    if values.get("quantization_config"):
        raise UnsupportedError(
            f"{directory}: its weights are quantised ({_method(values)}); give the unquantised checkpoint and --quantize, or a GGUF file"
        )
    try:
        with quiet():
            return AutoConfig.from_pretrained(directory, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # config classes raise whatever their checks raise
        raise CheckpointError(f"{path}: transformers refuses it: {first_line(error)}") from error


def _method(values: dict[str, object]) -> str:
    quantization = values["quantization_config"]
    return (
        str(quantization.get("quant_method", "unknown method"))
        if isinstance(quantization, dict)
        else "unknown method"
    )
