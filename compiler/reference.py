"""The model as Hugging Face runs it, in float32, holding the weights that a package holds."""

import copy
from collections.abc import Callable
from typing import Any

import torch

from pagedc.compiler.checkpoint import Checkpoint, QuantizedTensor
from pagedc.compiler.checkpoint.base import Stored
from pagedc.compiler.errors import CheckpointError
from pagedc.compiler.quantize import GROUP, ROUNDED_FORMATS, round_to
from pagedc.compiler.trace import computed_buffers, new_module, quiet
from pagedc.runtime.manifest import Manifest

# A weight as it lies in the checkpoint → as the package rounds it, in float32.
Rounding = Callable[[str, Stored], torch.Tensor]


class Reference:
    """Logits of a checkpoint's own module."""

    def __init__(self, checkpoint: Checkpoint, rounding: Rounding) -> None:
        """Reads every weight. Raises CheckpointError where one is missing."""
        with quiet(), torch.device("meta"):
            model: Any = new_module(checkpoint.config, attn_implementation="eager")
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

    def in_bfloat16(self) -> "Reference":
        """The same as Hugging Face runs it in bfloat16: parameters and what lies between them are rounded."""
        rounded: dict[int, Any] = {
            id(parameter): torch.nn.Parameter(parameter.bfloat16(), requires_grad=False)
            for parameter in self._model.parameters()
        }
        found = copy.copy(self)
        found._model = copy.deepcopy(self._model, rounded)
        return found

    def outputs(self, token_ids: list[int], paths: set[str]) -> dict[str, torch.Tensor]:
        """What each of these modules gives, of those that run once."""
        found: dict[str, list[torch.Tensor | None]] = {}

        def keep(path: str) -> Any:
            return lambda module, given, output: found.setdefault(path, []).append(_only_tensor(output))

        modules = dict(self._model.named_modules())
        hooks = [modules[path].register_forward_hook(keep(path)) for path in sorted(paths) if path in modules]
        self.logits(token_ids)
        for hook in hooks:
            hook.remove()
        return {path: made[0] for path, made in found.items() if len(made) == 1 and made[0] is not None}

    def logits(self, token_ids: list[int]) -> torch.Tensor:
        """[len(token_ids), vocab_size] float32."""
        with torch.inference_mode(), quiet():
            found: torch.Tensor = self._model(input_ids=torch.tensor([token_ids]), use_cache=False).logits[0]
            return found.float()


def _only_tensor(output: Any) -> torch.Tensor | None:
    """What a module gives to the next, where that is one tensor: some wrap it in a tuple."""
    parts = output if isinstance(output, tuple | list) else [output]
    tensors = [part for part in parts if isinstance(part, torch.Tensor)]
    return tensors[0] if len(tensors) == 1 else None


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
    floats = "f32" if manifest.dtype == "float32" else "bf16"

    def rounding(name: str, weight: Stored) -> torch.Tensor:
        if len(weight.shape) < 2:
            return unrounded(name, weight)
        held = formats.get(name, ROUNDED_FORMATS.get(manifest.quantization, floats))
        whole_groups = weight.shape[-1] % GROUP == 0
        return round_to(weight, held if whole_groups or isinstance(weight, QuantizedTensor) else floats)

    return rounding


def unrounded(name: str, weight: Stored) -> torch.Tensor:
    """A weight as the checkpoint has it, in float32."""
    return weight.dequantize() if isinstance(weight, QuantizedTensor) else weight.float()


def _set_buffers(model: torch.nn.Module, values: dict[str, torch.Tensor]) -> None:
    for name, value in values.items():
        path, _, leaf = name.rpartition(".")
        model.get_submodule(path)._buffers[leaf] = value
