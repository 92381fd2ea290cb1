"""The model as Hugging Face runs it, in float32, holding the weights that a package holds."""

from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM

from pagedc.compiler.checkpoint import Checkpoint, QuantizedTensor
from pagedc.compiler.errors import CheckpointError
from pagedc.compiler.quantize import GROUP, ROUNDED_FORMATS, quantize
from pagedc.compiler.trace import computed_buffers, quiet
from pagedc.runtime.manifest import Manifest

# A weight as it lies in the checkpoint → as the package rounds it, in float32.
Rounding = Callable[[str, torch.Tensor | QuantizedTensor], torch.Tensor]


class Reference:
    """Logits of a checkpoint's own module."""

    def __init__(self, checkpoint: Checkpoint, rounding: Rounding) -> None:
        """Reads every weight. Raises CheckpointError where one is missing."""
        with quiet(), torch.device("meta"):
            model = AutoModelForCausalLM.from_config(
                checkpoint.config, dtype=torch.float32, attn_implementation="eager"
            )
        held = set(checkpoint.names())
        state = {name: rounding(name, checkpoint.read(name)) for name in model.state_dict() if name in held}
        model.load_state_dict(state, strict=False, assign=True)
        model.tie_weights()
        _set_buffers(
            model,
            {name: value for name, value in computed_buffers(checkpoint.config).items() if name not in held},
        )
        missing = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
        if missing:
            raise CheckpointError(f"{checkpoint.source}: holds no {missing[0]}")
        self._model = model.eval()

    def logits(self, token_ids: list[int]) -> torch.Tensor:
        """[len(token_ids), vocab_size] float32."""
        with torch.inference_mode(), quiet():
            found: torch.Tensor = self._model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0]
            return found.float()


def rounding_of(manifest: Manifest) -> Rounding:
    """How a package rounds a weight: to the integers or floats that its manifest says it holds.

    A matrix that a module holds transposed (GPT-2's) is stored under no name of the module: it is rounded as
    the others are, but grouped along its other axis by the package.
    """
    formats = {
        part: weight.format
        for weight in manifest.weights
        for part in weight.name.partition("#")[0].split("|")
        if weight.format != "raw"
    }
    dtype = torch.float32 if manifest.dtype == "float32" else torch.bfloat16

    def rounding(name: str, weight: torch.Tensor | QuantizedTensor) -> torch.Tensor:
        held = formats.get(name, ROUNDED_FORMATS.get(manifest.quantization, "bf16"))
        if isinstance(weight, QuantizedTensor):
            if weight.format == held:
                return weight.dequantize()
            weight = weight.dequantize()
        if held in ROUNDED_FORMATS.values() and weight.ndim > 1 and weight.shape[-1] % GROUP == 0:
            return quantize(weight.flatten(0, -2), held).dequantize().view(weight.shape)
        return weight.to(dtype).float() if weight.ndim > 1 else weight.float()

    return rounding


def unrounded(name: str, weight: torch.Tensor | QuantizedTensor) -> torch.Tensor:
    """A weight as the checkpoint has it, in float32."""
    return weight.dequantize() if isinstance(weight, QuantizedTensor) else weight.float()


def _set_buffers(model: torch.nn.Module, values: dict[str, torch.Tensor]) -> None:
    for name, value in values.items():
        path, _, leaf = name.rpartition(".")
        model.get_submodule(path)._buffers[leaf] = value
