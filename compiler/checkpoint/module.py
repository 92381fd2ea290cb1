"""The module of a config that nobody has checked: built on the meta device, or refused in one line."""

import torch
from transformers import PretrainedConfig

from pagedc.compiler.checkpoint.shards import first_line
from pagedc.compiler.errors import CompileError, UnsupportedError
from pagedc.compiler.trace import build

# The deepest published models have about 130; a stranger's config may say 10⁹, a millisecond each to build.
MAX_LAYERS = 2048
LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def meta_module(config: PretrainedConfig) -> torch.nn.Module:
    """The causal LM of a config, without memory for its weights."""
    check_num_layers(config.model_type, getattr(config.get_text_config(), "num_hidden_layers", None))
    try:
        return build(config)
    except CompileError:
        raise
    except Exception as error:  # a module raises whatever its sizes make it raise
        raise UnsupportedError(
            f"{config.model_type}: its module cannot be built: {first_line(error)}"
        ) from error


def check_num_layers(model: str, num_layers: object) -> None:
    """Raises UnsupportedError for a number no model has: before a config is made that may list each layer."""
    if isinstance(num_layers, int) and not 0 < num_layers <= MAX_LAYERS:
        raise UnsupportedError(f"{model}: {num_layers} layers, not between 1 and {MAX_LAYERS}")
