import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import pagedc.kernels
from pagedc.runtime.batch import SAMPLING_DTYPE, Batch
from pagedc.runtime.errors import ExecutorError, PackageError
from pagedc.runtime.executors.cpu import BatchStruct, CpuExecutor, OptionsStruct

ABI_HEADER = Path(pagedc.kernels.__path__[0]) / "cpu" / "abi.h"
pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")

STRUCTS = {
    "pagedc_batch": {name: getattr(BatchStruct, name).offset for name, _ in BatchStruct._fields_},
    "pagedc_options": {name: getattr(OptionsStruct, name).offset for name, _ in OptionsStruct._fields_},
    "pagedc_sampling": {name: offset for name, (_, offset) in (SAMPLING_DTYPE.fields or {}).items()},
}
SIZES = {
    "pagedc_batch": ctypes.sizeof(BatchStruct),
    "pagedc_options": ctypes.sizeof(OptionsStruct),
    "pagedc_sampling": SAMPLING_DTYPE.itemsize,
}

# Stands in for an emitted program: its answers are made of all that it was given.
LIBRARY = """
#include "abi.h"
#include <stdlib.h>
struct State { pagedc_options options; const float* weight; };
extern "C" {
int32_t pagedc_abi_version(void) { return VERSION; }
void* pagedc_create(const pagedc_options* options, const void* const* weights, int32_t num_weights) {
  if (options->num_blocks > 1000 || num_weights != 1) return NULL;
  return new State{*options, static_cast<const float*>(weights[0])};
}
int32_t pagedc_step(void* handle, const pagedc_batch* b) {
  State* state = static_cast<State*>(handle);
  if (b->num_tokens > state->options.max_num_tokens) return -1;
  for (int r = 0; r < b->num_rows; ++r) {
    const int t = b->logits_rows[r];
    int s = 0;
    while (b->query_start_loc[s + 1] <= t) ++s;
    const pagedc_sampling& p = b->sampling[r];
    b->token_ids_out[r] = b->token_ids[t] + 10 * b->positions[t] + 100 * (int)b->slot_mapping[t] +
        1000 * b->block_tables[s * b->max_blocks + 1] + 10000 * b->context_lens[s] +
        100000 * b->state_slots[s] + 1000000 * state->options.num_state_slots;
    b->logprobs_out[r] = state->weight[0] + p.temperature + p.num_logprobs + p.seed + p.counter + p.top_k;
    for (int i = p.history_start; i < p.history_end; ++i) b->logprobs_out[r] += b->history_tokens[i];
    for (int i = p.bias_start; i < p.bias_end; ++i) b->logprobs_out[r] += b->bias_tokens[i] *
    b->bias_values[i]; for (int k = 0; k < b->max_logprobs; ++k) {
      b->top_ids_out[r * b->max_logprobs + k] = 10 * r + k;
      b->top_logprobs_out[r * b->max_logprobs + k] = -k;
    }
    if (b->logits_out) for (int v = 0; v < 8; ++v) b->logits_out[r * 8 + v] = v + b->allowed_tokens[0];
  }
  return 0;
}
void pagedc_destroy(void* handle) { delete static_cast<State*>(handle); }
}
"""


def build(directory: Path, source: str, *flags: str) -> Path:
    (directory / "source.cpp").write_text(source)
    output = directory / "output.so"
    command = ["g++", *flags, "-I", str(ABI_HEADER.parent), "-o", str(output), str(directory / "source.cpp")]
    subprocess.run(command, check=True)
    return output


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(
        tmp_path_factory.mktemp("library"), LIBRARY, "-shared", "-fPIC", "-DVERSION=PAGEDC_ABI_VERSION"
    )


def make_executor(library: Path, **changes: int) -> CpuExecutor:
    weight = np.array([0.5], np.float32)
    sizes = {
        "num_threads": 1,
        "max_num_tokens": 8,
        "max_num_rows": 4,
        "num_blocks": 10,
        "num_state_slots": 3,
        "vocab_size": 8,
    } | changes
    return CpuExecutor(library, [weight.ctypes.data], keep_alive=weight, **sizes)


def make_batch(num_tokens: int = 3) -> Batch:
    sampling = np.zeros(2, SAMPLING_DTYPE)
    sampling["temperature"], sampling["num_logprobs"], sampling["top_k"] = [0.25, 1], 2, [1, 2]
    sampling["seed"], sampling["counter"] = [1000, 0], [100, 0]
    sampling["history_start"], sampling["history_end"] = [0, 1], [1, 3]
    sampling["bias_start"], sampling["bias_end"] = [0, 0], [0, 1]
    return Batch(
        token_ids=np.arange(1, num_tokens + 1, dtype=np.int32),
        positions=np.arange(num_tokens, dtype=np.int32),
        slot_mapping=np.arange(num_tokens, dtype=np.int64),
        block_tables=np.array([[0, 1, 0], [0, 2, 0]], np.int32),
        context_lens=np.array([2, 1], np.int32),
        query_start_loc=np.array([0, num_tokens - 1, num_tokens], np.int32),
        state_slots=np.array([2, 1], np.int32),
        logits_rows=np.array([num_tokens - 2, num_tokens - 1], np.int32),
        sampling=sampling,
        history_tokens=np.array([10, 20, 30], np.int32),
        bias_tokens=np.array([7], np.int32),
        bias_values=np.array([2], np.float32),
        allowed_tokens=np.array([[3]], np.uint32),
        max_logprobs=2,
    )


def test_the_structs_are_those_of_the_header(tmp_path: Path) -> None:
    lines = [f'printf("%zu\\n", sizeof({struct}));' for struct in STRUCTS]
    lines += [
        f'printf("%zu\\n", offsetof({struct}, {name}));'
        for struct, fields in STRUCTS.items()
        for name in fields
    ]
    source = f'#include "abi.h"\n#include <stddef.h>\n#include <stdio.h>\nint main() {{ {"".join(lines)} }}'
    answer = subprocess.run([build(tmp_path, source)], check=True, capture_output=True, text=True).stdout
    expected = [*SIZES.values(), *(offset for fields in STRUCTS.values() for offset in fields.values())]
    assert [int(line) for line in answer.split()] == expected


def test_everything_reaches_the_program_and_comes_back(library: Path) -> None:
    executor = make_executor(library)
    result = executor.step(make_batch(), want_logits=True)
    assert result.token_ids.tolist() == [
        2 + 10 + 100 + 1000 + 20000 + 200000 + 3000000,
        3 + 20 + 200 + 2000 + 10000 + 100000 + 3000000,
    ]
    assert result.logprobs.tolist() == [0.5 + 0.25 + 2 + 1000 + 100 + 1 + 10, 0.5 + 1 + 2 + 2 + 50 + 14]
    assert result.top_ids.tolist() == [[0, 1], [10, 11]]
    assert result.top_logprobs.tolist() == [[0, -1], [0, -1]]
    assert result.logits is not None
    assert result.logits.tolist() == [[3, 4, 5, 6, 7, 8, 9, 10]] * 2
    assert executor.step(make_batch()).logits is None
    executor.close()
    executor.close()
    with pytest.raises(ExecutorError, match="closed"):
        executor.step(make_batch())


def test_arrays_of_another_type_or_stride_are_converted(library: Path) -> None:
    executor = make_executor(library)
    batch = make_batch()
    expected = executor.step(batch).token_ids.tolist()
    batch.token_ids = np.repeat(batch.token_ids.astype(np.int64), 2)[::2]
    assert executor.step(batch).token_ids.tolist() == expected
    executor.close()


def test_a_batch_that_is_too_large_is_an_error(library: Path) -> None:
    executor = make_executor(library, max_num_rows=2)
    with pytest.raises(ExecutorError, match="step returned -1 for 9 tokens"):
        executor.step(make_batch(9))
    batch = make_batch()
    batch.max_logprobs = 21
    with pytest.raises(ExecutorError, match="2 rows with 21 logprobs exceed"):
        executor.step(batch)
    executor.close()


def test_no_memory_is_told(library: Path) -> None:
    with pytest.raises(ExecutorError, match="no memory for 1001 blocks"):
        make_executor(library, num_blocks=1001)


def test_what_is_no_program(tmp_path: Path) -> None:
    (tmp_path / "model.so").write_bytes(b"text")
    with pytest.raises(PackageError, match="cannot be loaded"):
        make_executor(tmp_path / "model.so")
    with pytest.raises(PackageError, match="cannot be loaded"):
        make_executor(build(tmp_path, "int nothing;", "-shared", "-fPIC"))


def test_another_abi(tmp_path: Path) -> None:
    library = build(tmp_path, LIBRARY, "-shared", "-fPIC", "-DVERSION=99")
    with pytest.raises(PackageError, match="ABI version 99"):
        make_executor(library)
