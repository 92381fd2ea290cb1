"""From a config to a graph: the module is built on the meta device, exported over T tokens, and imported.

No weight exists at any point. Buffers that a module computes when it is built (rotary frequencies and the
like) are real: they are found by building the module a second time with everything but its parameters on the
CPU.
"""

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.utils import logging as transformers_logging

import pagedc.compiler.aten.index
import pagedc.compiler.aten.linear
import pagedc.compiler.aten.pointwise
import pagedc.compiler.aten.reduce
import pagedc.compiler.aten.state  # noqa: F401  the five fill the importer's table
from pagedc.compiler.aten.importer import Importer, NoRuleError
from pagedc.compiler.errors import UnsupportedError
from pagedc.compiler.graph import Graph
from pagedc.compiler.seams import NAME
from pagedc.compiler.state_seams import installed

SAMPLE_TOKENS = 11  # of the traced run: no size of a model, so that T cannot be mistaken for one


class _CausalLM(torch.nn.Module):
    """The signature that is traced: token ids and positions in, logits out."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, token_ids: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """token_ids [1, T], positions [1, T] → logits [1, T, vocab_size]."""
        return self.model(input_ids=token_ids, position_ids=positions, use_cache=False).logits  # type: ignore[no-any-return]


class _NoParameterMemory(TorchFunctionMode):
    """`torch.empty`, which modules use for parameters, gives meta tensors; computed buffers stay real."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.randn, torch.rand):
            kwargs["device"] = "meta"
        return func(*args, **kwargs)


def build(config: PretrainedConfig) -> torch.nn.Module:
    """The causal LM of a config on the meta device, in float32, with pagedc's seams."""
    config = copy.deepcopy(config)
    config._experts_implementation = NAME
    with quiet(), torch.device("meta"):
        return _from_config(config)


def computed_buffers(config: PretrainedConfig) -> dict[str, torch.Tensor]:
    """The values of the buffers that no checkpoint holds, by name."""
    with quiet(), torch.device("cpu"), _NoParameterMemory():
        model = _from_config(copy.deepcopy(config))
    return {name: buffer.clone() for name, buffer in model.named_buffers() if buffer.device.type != "meta"}


def trace(config: PretrainedConfig) -> Graph:
    """Trace the causal LM of a config. Raises UnsupportedError, one line, where pagedc cannot follow it."""
    model = build(config)
    buffers = computed_buffers(config)
    persistent = set(model.state_dict(keep_vars=True))
    canonical = canonical_names(model)
    values = {name: value for name, value in buffers.items() if name not in persistent}
    with quiet():
        program = _export(model)
        try:
            return _import(program, values, canonical)
        except NoRuleError:
            program = program.run_decompositions()
        try:
            return _import(program, values, canonical)
        except NoRuleError as error:
            raise UnsupportedError(
                f"{error.op} at {error.where or 'the top level'}: no rule in the compiler"
            ) from None


def parameter_shapes(config: PretrainedConfig) -> dict[str, tuple[int, ...]]:
    """Every parameter of the module, by name; tied ones under each of their names."""
    model = build(config)
    return {name: tuple(tensor.shape) for name, tensor in model.named_parameters(remove_duplicate=False)}


def canonical_names(model: torch.nn.Module) -> dict[str, str]:
    """For each parameter's name, the first name of the same tensor: tied weights are one."""
    first: dict[int, str] = {}
    pairs = model.named_parameters(remove_duplicate=False)
    return {name: first.setdefault(id(tensor), name) for name, tensor in pairs}


def _from_config(config: PretrainedConfig) -> torch.nn.Module:
    try:
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, attn_implementation=NAME)
    except UnsupportedError:
        raise
    except Exception as error:  # a module's constructor raises whatever its code raises
        reason = f"its module cannot be built: {_one_line(error)}"
        raise UnsupportedError(f"{config.model_type}: {reason}") from error
    return model.eval()  # type: ignore[no-any-return]


def _export(model: torch.nn.Module) -> ExportedProgram:
    # Two tensors: one given twice would be traced as one input.
    ids, positions = (torch.zeros(1, SAMPLE_TOKENS, dtype=torch.long, device="meta") for _ in range(2))
    try:
        with torch.no_grad(), installed(model):
            return torch.export.export(
                _CausalLM(model),
                (ids, positions),
                dynamic_shapes=({1: Dim.DYNAMIC}, {1: Dim.DYNAMIC}),
                strict=False,
            )
    except UnsupportedError:
        raise
    except Exception as error:  # torch.export raises whatever the module's code raises
        raise UnsupportedError(
            f"{type(model).__name__}: torch.export cannot trace it: {_one_line(error)}"
        ) from error


def _import(program: ExportedProgram, buffers: dict[str, torch.Tensor], canonical: dict[str, str]) -> Graph:
    graph = Importer(program, buffers, canonical).run()
    graph.sort()
    graph.verify()
    return graph


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the warnings that tracing prints about itself."""
    level = transformers_logging.get_verbosity()
    torch_logger = logging.getLogger("torch")
    torch_level = torch_logger.level
    transformers_logging.set_verbosity_error()
    torch_logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(level)
        torch_logger.setLevel(torch_level)
