"""From a config to a graph: the module is built on the meta device, exported over T tokens, and imported.

No weight exists at any point. Buffers that a module computes when it is built (rotary frequencies and the
like) are real: they are found by building the module a second time with everything but its parameters on the
CPU.
"""

import contextlib
import copy
import linecache
import logging
import traceback
import warnings
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from torch.export import Dim, ExportedProgram
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
)
from transformers.utils import logging as transformers_logging

import pagedc.compiler.aten.complex
import pagedc.compiler.aten.constants
import pagedc.compiler.aten.index
import pagedc.compiler.aten.linear
import pagedc.compiler.aten.pairs
import pagedc.compiler.aten.parts
import pagedc.compiler.aten.pointwise
import pagedc.compiler.aten.ranges
import pagedc.compiler.aten.reduce
import pagedc.compiler.aten.shifted
import pagedc.compiler.aten.state
import pagedc.compiler.aten.views  # noqa: F401  they fill the table of ops
from pagedc.compiler.aten.importer import Importer
from pagedc.compiler.aten.table import NoRuleError
from pagedc.compiler.aten.writes import follow_writes
from pagedc.compiler.errors import UnsupportedError
from pagedc.compiler.graph import Graph
from pagedc.compiler.installed_seams import installed
from pagedc.compiler.seams import NAME

NO_LIMIT = 1 << 30
SAMPLE_TOKENS = 11  # of the traced run: no size of a model, so that T cannot be mistaken for one


class _CausalLM(torch.nn.Module):
    """The signature that is traced: token ids in, logits out; positions are what the module counts itself."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """token_ids [1, T] → logits [1, T, vocab_size]."""
        return self.model(input_ids=token_ids, use_cache=False).logits  # type: ignore[no-any-return]


class _NumbersAsOps(TorchFunctionMode):
    """Numbers that would become tensors on the meta device, which hold no value, become ops' arguments.

    They are `torch.tensor(1.5)` and `x[:, [-2]]`.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.tensor and isinstance(args[0] if args else None, bool | int | float):
            dtype = kwargs.get("dtype") or torch.as_tensor(args[0], device="cpu").dtype
            return torch.full((), args[0], dtype=dtype, device=kwargs.get("device", "meta"))
        if func is torch.Tensor.__getitem__ and isinstance(args[1], tuple):
            args = (args[0], tuple(_as_slice(index) for index in args[1]))
        return func(*args, **kwargs)


def _as_slice(index: Any) -> Any:
    if isinstance(index, list) and len(index) == 1 and type(index[0]) is int:
        return slice(index[0], index[0] + 1 or None)
    return index


class _NoParameterMemory(TorchFunctionMode):
    """`torch.empty`, which modules use for parameters, gives meta tensors; computed buffers stay real."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.randn, torch.rand):
            kwargs["device"] = "meta"
        if func is torch.Tensor.copy_ and args[1].is_meta:
            return args[0]  # a parameter's first value, made of random numbers that are not there
        return func(*args, **kwargs)


def build(config: PretrainedConfig) -> torch.nn.Module:
    """The causal LM of a config on the meta device, in float32, with pagedc's seams."""
    config = copy.deepcopy(config)
    config._experts_implementation = NAME
    with quiet(), torch.device("meta"):
        return _from_config(config).to("meta")  # some parameters ask for no device: torch.FloatTensor(n)


def computed_buffers(config: PretrainedConfig) -> dict[str, torch.Tensor]:
    """The values of the buffers that no checkpoint holds, by name."""
    with quiet(), torch.device("cpu"), _NoParameterMemory():
        model = _from_config(copy.deepcopy(config))
    return {name: buffer.clone() for name, buffer in model.named_buffers() if buffer.device.type != "meta"}


def trace(config: PretrainedConfig) -> Graph:
    """Trace the causal LM of a config.

    Raises UnsupportedError where pagedc cannot follow it: one line with the model type, the module, the op
    and what is wrong with it.
    """
    try:
        return _trace(config)
    except UnsupportedError as error:
        message = str(error).removeprefix(f"{config.model_type}: ")
        raise UnsupportedError(f"{config.model_type}: {message}") from error


def _trace(config: PretrainedConfig) -> Graph:
    model = build(config)
    buffers = computed_buffers(config)
    persistent = set(model.state_dict(keep_vars=True))
    canonical = canonical_names(model)
    values = {name: value for name, value in buffers.items() if name not in persistent}
    with quiet():
        program = _export(model)
        max_tokens = _max_tokens(program)
        if follow_writes(program.graph):
            with contextlib.suppress(NoRuleError, UnsupportedError):
                return _import(program, values, canonical, max_tokens)
        program = program.run_decompositions()
        try:
            return _import(program, values, canonical, max_tokens)
        except NoRuleError as error:
            raise UnsupportedError(
                f"{error.op} at {error.where or 'the top level'}: no rule in the compiler"
            ) from None


def canonical_names(model: torch.nn.Module) -> dict[str, str]:
    """For each parameter's name, the first name of the same tensor: tied weights are one."""
    first: dict[int, str] = {}
    pairs = model.named_parameters(remove_duplicate=False)
    return {name: first.setdefault(id(tensor), name) for name, tensor in pairs}


def new_module(config: PretrainedConfig, **options: Any) -> torch.nn.Module:
    """The causal LM of a config in float32, as transformers makes it. Raises what transformers raises.

    The text half of a model for several media has a config that the mapping of causal LMs does not list: then
    it is the class of that mapping that the checkpoint names. A class may be that of one part of a config.
    """
    named = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()) & set(config.architectures or ())
    classes: list[Any] = [getattr(transformers, name) for name in named]
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        classes = [MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]]
    model: torch.nn.Module
    for found in classes:
        for part in (config, *vars(config).values()):
            if type(part) is found.config_class:
                model = found._from_config(part, dtype=torch.float32, **options)
                return model
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32, **options)
    return model


def _from_config(config: PretrainedConfig) -> torch.nn.Module:
    try:
        try:
            model = new_module(config, attn_implementation=NAME)
        except KeyError as error:
            if error.args != (NAME,):
                raise
            # A table of attention classes of its own: its plain one is followed op by op (aten/pairs.py).
            model = new_module(config, attn_implementation="eager")
    except UnsupportedError:
        raise
    except Exception as error:  # a module's constructor raises whatever its code raises
        reason = f"its module cannot be built: {_one_line(error)}"
        raise UnsupportedError(f"{config.model_type}: {reason}") from error
    return model.eval()


def _export(model: torch.nn.Module) -> ExportedProgram:
    ids = torch.zeros(1, SAMPLE_TOKENS, dtype=torch.long, device="meta")
    try:
        with torch.no_grad(), _NumbersAsOps(), installed(model):
            return torch.export.export(
                _CausalLM(model),
                (ids,),
                dynamic_shapes=({1: Dim.DYNAMIC},),
                strict=False,
            )
    except Exception as error:  # torch.export raises whatever the module's code raises
        where = _where(model, error)
        if isinstance(error, UnsupportedError):
            raise UnsupportedError(f"{where.partition(':')[0]}: {error}") from error
        reason = _one_line(error)
        if "Constraints violated" in reason:
            reason = "its code takes one number of tokens only"
        raise UnsupportedError(f"{where}: torch.export cannot trace it ({reason})") from error


def _where(model: torch.nn.Module, error: BaseException) -> str:
    """`path of the innermost module: its line` that raised, for a person to look at."""
    paths = {id(module): path for path, module in model.named_modules()}
    found = "the top level"
    cause: BaseException | None = error
    while cause is not None:
        for frame, line in traceback.walk_tb(cause.__traceback__):
            module = frame.f_locals.get("self")
            if isinstance(module, torch.nn.Module) and id(module) in paths:
                code = linecache.getline(frame.f_code.co_filename, line).strip()
                found = f"{paths[id(module)] or type(module).__name__}: {code}"
        cause = cause.__cause__ or cause.__context__
    return found


def _max_tokens(program: ExportedProgram) -> int | None:
    """The longest run that the trace holds for: the module takes another branch above, or a table ends."""
    limits = [int(limit.upper) for limit in program.range_constraints.values() if limit.upper < NO_LIMIT]
    return min(limits, default=None)


def _import(
    program: ExportedProgram,
    buffers: dict[str, torch.Tensor],
    canonical: dict[str, str],
    max_tokens: int | None,
) -> Graph:
    graph = Importer(program, buffers, canonical).run()
    graph.max_tokens = max_tokens
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
    torch_logger.setLevel(logging.CRITICAL)  # an op that fails on fake tensors is told by its exception
    checks = torch.distributions.Distribution._validate_args
    torch.distributions.Distribution.set_default_validate_args(False)  # they look into values: meta has none
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.distributions.Distribution.set_default_validate_args(checks)
        transformers_logging.set_verbosity(level)
        torch_logger.setLevel(torch_level)
