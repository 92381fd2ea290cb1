"""Hugging Face checkpoints whose weights are stored quantised: one file a method.

A method says which tensors of the file make up a matrix, and reads them: as our integers where those hold the
same weights exactly, else in floats. To everything above, a quantised file looks like one that holds the
matrices under their own names.
"""

import logging
from collections import Counter
from typing import Any

from pagedc.compiler.checkpoint.base import Stored
from pagedc.compiler.checkpoint.quantized import (
    awq,
    bitsandbytes,
    compressed_tensors,
    fp8,
    gptq,
    mxfp4,
)
from pagedc.compiler.checkpoint.quantized.base import Method, Source
from pagedc.compiler.checkpoint.shards import TensorInfo
from pagedc.compiler.errors import CheckpointError, UnsupportedError

logger = logging.getLogger(__name__)

METHODS: dict[str, Method] = {
    "awq": awq.find,
    "bitsandbytes": bitsandbytes.find,
    "compressed-tensors": compressed_tensors.find,
    "fp8": fp8.find,
    "gptq": gptq.find,
    "mxfp4": mxfp4.find,
}


def quantization_config(values: dict[str, Any]) -> dict[str, Any]:
    """That part of a config.json, or {}. Raises UnsupportedError for a method that is not read."""
    found = values.get("quantization_config") or values.get("compression_config") or {}
    if not isinstance(found, dict):
        raise CheckpointError("quantization_config is not an object")
    if found and method_of(found) not in METHODS:
        raise UnsupportedError(
            f"its weights are quantised by {method_of(found)!r}; pagedc reads {', '.join(METHODS)}; "
            "give the unquantised checkpoint and --quantize, or a GGUF file"
        )
    return found


def method_of(config: dict[str, Any]) -> str:
    """The name of the method; "" where nothing is quantised."""
    if not config:
        return ""
    default = "compressed-tensors" if "config_groups" in config else "unknown method"
    return str(config.get("quant_method") or default)


class QuantizedShards:
    """The tensors of a file, of which some stand for one matrix together."""

    def __init__(self, source: Source, config: dict[str, Any], where: str) -> None:
        """Logs one line for each reason to expand matrices into floats."""
        self._source = source
        try:
            self._packed = METHODS[method_of(config)](config, source)
        except UnsupportedError as error:
            raise UnsupportedError(f"{where}: {error}") from error
        used = {key for packed in self._packed.values() for key in packed.parts.values()}
        self.infos = {key: info for key, info in source.infos.items() if key not in used}
        self.infos |= {name: TensorInfo(packed.shape, "BF16") for name, packed in self._packed.items()}
        for why, count in sorted(Counter(packed.expanded for packed in self._packed.values()).items()):
            if why:
                logger.warning("%s: %d matrices are expanded to bfloat16: %s", where, count, why)

    def read(self, key: str) -> Stored:
        """A tensor, or a matrix from its parts."""
        packed = self._packed.get(key)
        if packed is None:
            return self._source.read(key)
        return packed.read({role: self._source.read(part) for role, part in packed.parts.items()})
