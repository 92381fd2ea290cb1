"""The model as Hugging Face runs it, in float32, holding the weights that a package holds."""

from collections.abc import Callable

import torch
from transformers import AutoModelForCausalLM

from pagedc.compiler.checkpoint import Checkpoint, QuantizedTensor
from pagedc.compiler.errors import CheckpointError
from pagedc.compiler.trace import computed_buffers, quiet

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


def _set_buffers(model: torch.nn.Module, values: dict[str, torch.Tensor]) -> None:
    for name, value in values.items():
        path, _, leaf = name.rpartition(".")
        model.get_submodule(path)._buffers[leaf] = value
