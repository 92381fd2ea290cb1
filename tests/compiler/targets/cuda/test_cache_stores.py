"""Keys and values stored by the row kernel that makes the keys."""

from pathlib import Path

import numpy as np
import torch
from tests.compiler.families import make_config
from tests.compiler.small_graphs import Builder
from tests.compiler.targets.cuda.test_rows import imported_text
from tests.compiler.test_rows import plan
from tests.kernels.triton.device import DEVICE, tensor

from pagedc.compiler.lower import lower
from pagedc.compiler.passes import run_passes
from pagedc.compiler.program import Program
from pagedc.compiler.targets.cuda.arch import BLOCK_SIZE
from pagedc.compiler.targets.cuda.cache_stores import CacheStore, fuse_cache_stores
from pagedc.compiler.targets.cuda.row_printer import print_body
from pagedc.compiler.targets.cuda.rows_file import print_file, print_row_kernel
from pagedc.compiler.trace import trace

HEADS, WIDTH, BLOCKS = 2, 3, 4


def test_a_token_goes_to_its_slot_and_padding_nowhere(tmp_path: Path) -> None:
    build = Builder()
    x = build.embedded(2 * HEADS * WIDTH)
    k = build.add("slice", (x,), (HEADS * WIDTH,), axis=0, range=(0, HEADS * WIDTH, 1))
    kernel = plan(build.done(build.add("tanh", (k,), (HEADS * WIDTH,))), every=9)
    store = CacheStore(0, ("in", 0), HEADS * WIDTH, HEADS, WIDTH, WIDTH)
    module = imported_text(print_file([print_row_kernel("rows_kv", kernel, [], store)]), tmp_path)
    slots = np.array([BLOCK_SIZE + 2, -1, 3 * BLOCK_SIZE - 1])
    values = np.random.default_rng(0).standard_normal((len(slots), x.size)).astype(np.float32)
    k_cache, v_cache = (torch.full((BLOCKS, HEADS, BLOCK_SIZE, WIDTH), 7.0, device=DEVICE) for _ in "kv")
    module.rows_kv[(len(slots),)](
        tensor(values), k_cache, v_cache, tensor(slots), PDL=False, INTERPRET=DEVICE == "cpu"
    )
    for cache, rows in (
        (k_cache, np.tanh(values[:, : HEADS * WIDTH])),
        (v_cache, values[:, HEADS * WIDTH :]),
    ):
        expected = np.full(cache.shape, 7.0, np.float32)
        for slot, row in zip(slots, rows, strict=True):
            if slot >= 0:
                expected[slot // BLOCK_SIZE, :, slot % BLOCK_SIZE] = row.reshape(HEADS, WIDTH)
        np.testing.assert_allclose(cache.cpu().numpy(), expected, rtol=2e-6)


def program_of(name: str) -> Program:
    graph = trace(make_config(name))
    run_passes(graph, lambda node: "bf16")
    return lower(graph, print_body)


def test_rotated_keys_are_stored_where_they_are_made_and_others_by_a_kernel() -> None:
    rotated, plain = program_of("llama"), program_of("gpt2")
    assert fuse_cache_stores(rotated) == 3  # layers
    assert fuse_cache_stores(rotated) == 0
    assert {len(call.operands) for call in rotated.calls if call.kind == "attention"} == {1}
    assert fuse_cache_stores(plain) == 0
    assert {len(call.operands) for call in plain.calls if call.kind == "attention"} == {3}


def test_a_layer_is_few_launches() -> None:
    """Of Llama: norm, QKV, rotation and store, attention, output, norm, gate and up, down."""
    program = program_of("llama")
    fuse_cache_stores(program)
    kinds = [call.kind for call in program.calls if ".layers.1." in call.origin]
    assert kinds == ["rows", "linear", "rows", "attention", "linear", "rows", "linear", "linear"]
