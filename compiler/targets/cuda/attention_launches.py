"""What an attention launches: the store of keys and values, and one of three ways through them."""

from dataclasses import dataclass
from typing import Any

from pagedc.compiler.errors import UnsupportedError
from pagedc.compiler.program import Call, Operand
from pagedc.compiler.targets.base import Facts
from pagedc.compiler.targets.cuda.arch import BLOCK_SIZE
from pagedc.compiler.targets.cuda.configs import Configs, triton_module
from pagedc.compiler.targets.cuda.launch_table import Arguments
from pagedc.compiler.targets.cuda.tiles import power_of_two
from pagedc.runtime.manifest import Limits

Launches = Any  # list[Launch] of kernels/triton/launch.py

SPEC = (
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "v_head_dim",
    "scale",
    "softcap",
    "window",
    "chunk",
    "has_sinks",
    "has_slopes",
)
SPLIT_TOKENS, MAX_SPLITS = 128, 32  # of a decode's keys, not tuned


def max_blocks_per_seq(limits: Limits) -> int:
    """Width of a block table."""
    return -(-limits.max_model_len // BLOCK_SIZE)


def kv_block_bytes(call: Call, dtype: str) -> tuple[int, int]:
    """Bytes of a block of keys and of values of one attention, as kernels/triton/kv_cache.py lays it out."""
    cells = call.constants["num_kv_heads"] * BLOCK_SIZE * {"float32": 4, "bfloat16": 2, "fp8": 1}[dtype]
    return cells * call.constants["head_dim"], cells * call.constants["v_head_dim"]


@dataclass(frozen=True, slots=True)
class AttentionLaunches:
    """Of one call; `size` is the number of sequences of a decode and of tokens of a prefill."""

    call: Call
    facts: Facts
    configs: Configs
    pdl: bool

    def store_kv(self, arguments: Arguments, size: int) -> Launches:
        """Keys and values of `size` tokens into the cache."""
        spec, c = self._spec(), self.call.constants
        heads = c["num_kv_heads"]
        k = _view(arguments, "k", self.call.operands[1], (size, heads * c["head_dim"]))
        v = _view(arguments, "v", self.call.operands[2], (size, heads * c["v_head_dim"]))
        slots = arguments.tensor("slot_mapping", (size,), "int64")
        config = self.configs.of("kv_cache", spec, size)
        return triton_module("kv_cache").launch_store_kv(
            spec, config, k, v, slots, *self._cache(arguments, spec), pdl=self.pdl
        )

    def decode(self, arguments: Arguments, size: int) -> Launches:
        """Where each sequence has one token."""
        return self._decode(arguments, size, None)

    def mixed(self, arguments: Arguments, size: int) -> Launches:
        """The sequences that have one token, among others."""
        return self._decode(arguments, size, arguments.tensor("query_start_loc", (size + 1,), "int32"))

    def _decode(self, arguments: Arguments, size: int, starts: Any) -> Launches:
        decode, spec = triton_module("attention_decode"), self._spec()
        q, out = self._queries(arguments, size)
        return decode.launch_attention_decode(
            spec,
            self.configs.of("attention_decode", spec, size),
            q,
            *self._cache(arguments, spec),
            self._block_tables(arguments, size),
            arguments.tensor("context_lens", (size,), "int32"),
            *self._tables(arguments),
            arguments.tensor("scratch", (decode.scratch_floats(spec, size),), "float32"),
            out,
            query_start_loc=starts,
            pdl=self.pdl,
        )

    def prefill(self, arguments: Arguments, size: int) -> Launches:
        """The sequences that have several tokens."""
        spec, num_seqs = self._spec(), self.facts.limits.max_num_seqs
        q, out = self._queries(arguments, size)
        return triton_module("attention_prefill").launch_attention_prefill(
            spec,
            self.configs.of("attention_prefill", spec, size),
            q,
            *self._cache(arguments, spec),
            self._block_tables(arguments, num_seqs),
            arguments.tensor("context_lens", (num_seqs,), "int32"),
            arguments.tensor("query_start_loc", (num_seqs + 1,), "int32"),
            *self._tables(arguments),
            out,
            skip_decode=True,
            pdl=self.pdl,
        )

    def _spec(self) -> Any:
        facts = {name: self.call.constants[name] for name in SPEC}
        if "extent" in self.call.constants:
            raise UnsupportedError(f"{self.call.origin}: attention with a bias of each distance, on a GPU")
        if facts["window"] and facts["chunk"]:
            raise UnsupportedError(f"{self.call.origin}: attention with both a window and chunks, on a GPU")
        # No more splits than the longest sequence can fill: the others would be launched for nothing. The
        # kernels want a power of two.
        longest = min(self.facts.limits.max_model_len, facts["window"] or facts["chunk"] or 2**30)
        splits = min(MAX_SPLITS, power_of_two(-(-longest // SPLIT_TOKENS)))
        return triton_module("attention").AttentionSpec(
            block_size=BLOCK_SIZE,
            kv_dtype=self.facts.kv_dtype,
            split_tokens=SPLIT_TOKENS,
            num_splits=splits,
            **facts,
        )

    def _queries(self, arguments: Arguments, size: int) -> tuple[Any, Any]:
        c, out = self.call.constants, self.call.outputs[0]
        q = _view(arguments, "q", self.call.operands[0], (size, c["num_heads"] * c["head_dim"]))
        return q, arguments.tensor("out", (size, c["num_heads"] * c["v_head_dim"]), out.dtype)

    def _cache(self, arguments: Arguments, spec: Any) -> tuple[Any, Any]:
        dtype = self.facts.kv_dtype
        return (
            arguments.tensor("k_cache", spec.k_shape(1), dtype),
            arguments.tensor("v_cache", spec.v_shape(1), dtype),
        )

    def _block_tables(self, arguments: Arguments, size: int) -> Any:
        width = max_blocks_per_seq(self.facts.limits)
        return arguments.tensor("block_tables", (size, width), "int32", stride=width)

    def _tables(self, arguments: Arguments) -> list[Any]:
        """Sinks and ALiBi's slopes, None where the attention has none."""
        c = self.call.constants
        return [
            arguments.tensor(name, (c["num_heads"],), "float32") if c[f"has_{name}"] else None
            for name in ("sinks", "slopes")
        ]


def _view(arguments: Arguments, name: str, operand: Operand, shape: tuple[int, ...]) -> Any:
    buffer = operand.buffer
    return arguments.tensor(name, shape, buffer.dtype, stride=buffer.width, offset=operand.offset)
