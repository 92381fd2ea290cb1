"""config.json to a transformers config, with everything refused that pagedc does not run."""

import logging
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

from pagedc.compiler.checkpoint.module import LAYER_COUNTS, check_num_layers
from pagedc.compiler.checkpoint.quantized import quantization_config
from pagedc.compiler.checkpoint.shards import first_line, read_json
from pagedc.compiler.errors import CheckpointError, CompileError, UnsupportedError
from pagedc.compiler.model_name import require_config
from pagedc.compiler.trace import quiet

logger = logging.getLogger(__name__)


def read_config(path: Path, *, weights: bool = True) -> PretrainedConfig:
    """The config in a file; code that a checkpoint brings along is never run.

    With `weights`, a config whose weights are quantised by a method that is not read is refused.
    """
    if not path.is_file():
        require_config(path.parent)
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
    if "auto_map" in values:
        logger.warning("%s: its own code (auto_map) is not run; transformers' %s is used", path, model_type)
    if weights:
        read_quantization(path)
    text = values.get("text_config")
    for part in (values, text if isinstance(text, dict) else {}):
        for key in LAYER_COUNTS:
            check_num_layers(str(path), part.get(key))
    try:
        with quiet():
            config = AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # config classes raise whatever their checks raise
        raise CheckpointError(f"{path}: transformers refuses it: {first_line(error)}") from error
    for key in ("quantization_config", "compression_config"):
        if hasattr(config, key):
            delattr(config, key)
    return config


def read_quantization(path: Path) -> dict[str, Any]:
    """The quantization_config in a file, {} if there is none."""
    try:
        return quantization_config(read_json(path))
    except CompileError as error:
        raise type(error)(f"{path.parent}: {error}") from error
