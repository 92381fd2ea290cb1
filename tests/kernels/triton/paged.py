"""Random sequences in a paged cache, and what attention makes of them by the reference."""

from dataclasses import dataclass

import numpy as np
import torch
from tests.kernels.triton.device import DEVICE, tensor

from pagedc.kernels.reference.attention import AttentionConfig, attention
from pagedc.kernels.triton import attention_decode, attention_prefill
from pagedc.kernels.triton.attention import AttentionSpec
from pagedc.kernels.triton.kv_cache import KV_DTYPES
from pagedc.kernels.triton.launch import KernelConfig, run_all

PADDING = 5  # elements that rows of q and out are wider than needed
UNTOUCHED = 7.0


@dataclass
class Paged:
    """Sequence s has `num_queries[s]` queries at the end of `context_lens[s]` tokens."""

    spec: AttentionSpec
    context_lens: list[int]
    num_queries: list[int]
    seed: int = 0

    def __post_init__(self) -> None:
        spec, rng = self.spec, np.random.default_rng(self.seed)
        self.dtype = KV_DTYPES[spec.kv_dtype]
        blocks = [-(-n // spec.block_size) for n in self.context_lens]
        num_blocks = sum(blocks) + 3
        order = rng.permutation(num_blocks)
        self.tables = np.full((len(blocks), max(*blocks, 1)), num_blocks + 100, np.int32)  # a wild block
        for s, count in enumerate(blocks):
            self.tables[s, :count], order = order[:count], order[count:]
        self.tables[self.tables > num_blocks] = order[0]  # of garbage
        self.k_cache = tensor(rng.standard_normal(spec.k_shape(num_blocks)), torch.float32).to(self.dtype)
        self.v_cache = tensor(rng.standard_normal(spec.v_shape(num_blocks)), torch.float32).to(self.dtype)
        self.k_cache[order] = self.v_cache[order] = float("nan")
        for s, n in enumerate(self.context_lens):  # what lies behind the last token of a block is garbage too
            if n % spec.block_size:
                last = self.tables[s, n // spec.block_size]
                self.k_cache[last, :, n % spec.block_size :] = float("nan")
                self.v_cache[last, :, n % spec.block_size :] = float("nan")
        self.num_tokens = sum(self.num_queries)
        width = spec.num_heads * spec.head_dim
        self.q = tensor(rng.standard_normal((self.num_tokens, width + PADDING)) * 2, torch.float32)
        self.q = self.q.to(self.dtype)[:, :width]
        self.sinks = tensor(rng.standard_normal(spec.num_heads), torch.float32) if spec.has_sinks else None
        self.slopes = tensor(rng.random(spec.num_heads), torch.float32) if spec.has_slopes else None
        self.query_start_loc = np.concatenate([[0], np.cumsum(self.num_queries)]).astype(np.int32)

    def expected(self) -> np.ndarray:
        """[T, num_heads, v_head_dim]."""
        spec = self.spec
        config = AttentionConfig(
            num_heads=spec.num_heads,
            num_kv_heads=spec.num_kv_heads,
            head_dim=spec.head_dim,
            v_head_dim=spec.v_head_dim,
            scale=spec.scale,
            softcap=spec.softcap,
            window=spec.window,
            chunk=spec.chunk,
        )
        sinks, slopes = (None if x is None else x.cpu().numpy() for x in (self.sinks, self.slopes))
        query = self.q.float().cpu().numpy().reshape(-1, spec.num_heads, spec.head_dim)
        out = np.zeros((self.num_tokens, spec.num_heads, spec.v_head_dim))
        for s, (n, m) in enumerate(zip(self.context_lens, self.num_queries, strict=True)):
            if n == 0 or m == 0:
                continue
            blocks = self.tables[s, : -(-n // spec.block_size)]
            keys, values = (
                cache[blocks].float().cpu().numpy().swapaxes(1, 2).reshape(-1, spec.num_kv_heads, width)[:n]
                for cache, width in ((self.k_cache, spec.head_dim), (self.v_cache, spec.v_head_dim))
            )
            rows = slice(*self.query_start_loc[s : s + 2])
            out[rows] = attention(config, query[rows], keys, values, np.arange(n - m, n), sinks, slopes)
        return out

    def run_decode(self, config: KernelConfig, *, mixed: bool = False) -> np.ndarray:
        """The output of the decode kernels; 7 where they wrote nothing."""
        out = self._out()
        scratch = torch.full(
            (attention_decode.scratch_floats(self.spec, len(self.context_lens)),), float("nan"), device=DEVICE
        )
        starts = tensor(self.query_start_loc) if mixed else None
        run_all(
            attention_decode.launch_attention_decode(
                self.spec, config, *self._inputs(), self.sinks, self.slopes, scratch, out,
                query_start_loc=starts,
            )
        )  # fmt: skip
        return self._shaped(out)

    def run_prefill(self, config: KernelConfig, *, skip_decode: bool = False) -> np.ndarray:
        """The output of the prefill kernel; 7 where it wrote nothing."""
        out, starts = self._out(), tensor(self.query_start_loc)
        run_all(
            attention_prefill.launch_attention_prefill(
                self.spec, config, *self._inputs(), starts, self.sinks, self.slopes, out,
                skip_decode=skip_decode,
            )
        )  # fmt: skip
        return self._shaped(out)

    def _inputs(self) -> tuple[torch.Tensor, ...]:
        lens = tensor(np.array(self.context_lens, np.int32))
        return self.q, self.k_cache, self.v_cache, tensor(self.tables), lens

    def _out(self) -> torch.Tensor:
        width = self.spec.num_heads * self.spec.v_head_dim
        return torch.full((self.num_tokens, width + PADDING), UNTOUCHED, device=DEVICE)[:, :width]

    def _shaped(self, out: torch.Tensor) -> np.ndarray:
        rest = out.as_strided((self.num_tokens, PADDING), (out.stride(0), 1), out.shape[1])
        assert (rest == UNTOUCHED).all(), "wrote past the end of a row"
        return out.cpu().numpy().reshape(-1, self.spec.num_heads, self.spec.v_head_dim)
