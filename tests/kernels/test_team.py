import ctypes
import subprocess
import time
from pathlib import Path

import pytest
from tests.kernels.harness import HEADERS, compile_harness

from pagedc.kernels.cpu import COMPILE_FLAGS

SOURCE = """
#include "team.h"
using namespace pagedc;

extern "C" void* make_team(int size) { return new Team(size); }
extern "C" void free_team(void* team) { delete static_cast<Team*>(team); }

// Adds 1 to counts[i] of every loop, `loops` of them without a barrier; after one, all must be done.
extern "C" int run_loops(void* team, int loops, int64_t count, int64_t grain, int32_t* counts) {
  std::atomic<int> errors{0};
  static_cast<Team*>(team)->run([&](Worker& worker) {
    for (int loop = 0; loop < loops; ++loop) {
      int64_t last = -1;
      worker.parallel_for(count, grain, [&](int64_t begin, int64_t end) {
        if (begin <= last || end > count || end - begin > grain) ++errors;
        last = begin;
        for (int64_t i = begin; i < end; ++i) ++counts[loop * count + i];
      });
    }
    worker.barrier();
    for (int64_t i = 0; i < loops * count; ++i) errors += counts[i] != 1;
  });
  return errors;
}

// Each round every thread writes its own place, then reads the others' of the same round.
extern "C" int run_barriers(void* team, int rounds) {
  const int size = static_cast<Team*>(team)->size();
  std::vector<int> places(size);
  std::atomic<int> errors{0};
  static_cast<Team*>(team)->run([&](Worker& worker) {
    for (int round = 1; round <= rounds; ++round) {
      places[worker.rank] = round;
      worker.barrier();
      for (int place : places) errors += place != round;
      worker.barrier();
    }
  });
  return errors;
}

#ifdef PROGRAM
int main() {
  int errors = 0;
  for (int size : {1, 2, 3, 5}) {
    Team team(size);
    for (int repeat = 0; repeat < 20; ++repeat) {
      std::vector<int32_t> counts(20 * 37);
      errors += run_loops(&team, 20, 37, 3, counts.data()) + run_barriers(&team, 50);
    }
  }
  return errors != 0;
}
#endif
"""

# Prefill and decode of several sequences on three threads, then the sampler.
KERNELS_SOURCE = """
#include <cstdlib>
#include "attention.h"
#include "sampler.h"
using namespace pagedc;

struct Config {
  static constexpr int num_heads = 4, num_kv_heads = 2, head_dim = 32, v_head_dim = 32, window = 0, chunk = 0;
  static constexpr float scale = 0.2f, softcap = 0;
  static constexpr bool has_sinks = false, causal = true;
};

int main() {
  constexpr int BLOCKS_PER_SEQUENCE = 40, THREADS = 3, WIDTH = 4 * 32, KV_WIDTH = 2 * 32;
  const std::vector<int32_t> begins = {0, 600, 550}, ends = {60, 601, 553};
  std::vector<int32_t> positions, tables, query_start_loc = {0}, tokens(3);
  std::vector<int64_t> slots;
  for (int s = 0; s < 3; ++s) {
    for (int b = 0; b < BLOCKS_PER_SEQUENCE; ++b) tables.push_back(s * BLOCKS_PER_SEQUENCE + b);
    for (int p = begins[s]; p < ends[s]; ++p) {
      positions.push_back(p);
      slots.push_back(s * BLOCKS_PER_SEQUENCE * BLOCK_SIZE + p);
    }
    query_start_loc.push_back(positions.size());
  }
  std::vector<float> x(positions.size() * WIDTH, 0.5f), out(x.size()), logprobs(3);
  std::vector<pagedc_sampling> sampling(3, {1.0f, 0.9f, 0, 1, 0, 0, 0, -1, -1, -1, 1, 1, 0, 0, 0, 0, 0});
  pagedc_batch batch = {};
  batch.num_tokens = positions.size();
  batch.num_seqs = 3;
  batch.num_rows = 3;
  batch.max_blocks = BLOCKS_PER_SEQUENCE;
  batch.positions = positions.data();
  batch.slot_mapping = slots.data();
  batch.block_tables = tables.data();
  batch.query_start_loc = query_start_loc.data();
  batch.sampling = sampling.data();
  batch.token_ids_out = tokens.data();
  batch.logprobs_out = logprobs.data();
  auto zeros = [](size_t size) { return memset(aligned_alloc(64, round_up(size, 64)), 0, size); };
  void* cache = zeros(kv_bytes_per_block<Config, bf16>() * tables.size());
  void* scratch = zeros(attention_scratch_bytes<Config, bf16>(THREADS));
  void* sampler_scratch = zeros(sample_scratch_bytes<100>(THREADS));
  Team team(THREADS);
  for (int step = 0; step < 20; ++step)
    team.run([&](Worker& worker) {
      attention<Config, bf16>(worker, batch, x.data(), WIDTH, x.data(), KV_WIDTH, x.data(), KV_WIDTH, nullptr,
                              cache, scratch, out.data(), WIDTH);
      worker.barrier();
      sample<100>(worker, batch, out.data(), WIDTH, sampler_scratch);
    });
  free(cache);
  free(scratch);
  free(sampler_scratch);
}
"""


def load() -> ctypes.CDLL:
    library = compile_harness(SOURCE)
    library.make_team.restype = ctypes.c_void_p
    library.free_team.argtypes = (ctypes.c_void_p,)
    library.run_barriers.argtypes = (ctypes.c_void_p, ctypes.c_int)
    library.run_loops.argtypes = (
        *(ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_int64),
        ctypes.POINTER(ctypes.c_int32),
    )
    return library


@pytest.mark.parametrize("size", [0, 1, 2, 3, 8])
def test_every_index_runs_once(size: int) -> None:
    library = load()
    team = library.make_team(size)
    for loops, count, grain in ((1, 0, 1), (1, 1, 1), (3, 100, 7), (8, 5, 100), (25, 33, 4)):
        counts = (ctypes.c_int32 * max(loops * count, 1))()
        assert library.run_loops(team, loops, count, grain, counts) == 0
    library.free_team(team)


@pytest.mark.parametrize("size", [1, 2, 3, 8])
def test_a_barrier_lets_nobody_pass_early(size: int) -> None:
    library = load()
    team = library.make_team(size)
    for _ in range(10):
        assert library.run_barriers(team, 100) == 0
        time.sleep(0.001)  # long enough for the threads to fall asleep
    library.free_team(team)


def test_a_team_that_never_ran_ends() -> None:
    library = load()
    library.free_team(library.make_team(4))


@pytest.mark.parametrize(("name", "source"), [("team", SOURCE), ("kernels", KERNELS_SOURCE)])
def test_thread_sanitizer_finds_nothing(tmp_path: Path, name: str, source: str) -> None:
    cpp, program = tmp_path / f"{name}.cpp", tmp_path / name
    cpp.write_text(source)
    flags = [flag for flag in COMPILE_FLAGS if flag not in ("-shared", "-O3")]
    command = ["g++", *flags, "-O1", "-g", "-march=native", "-fsanitize=thread", "-DPROGRAM", f"-I{HEADERS}"]
    built = subprocess.run([*command, str(cpp), "-o", str(program)], capture_output=True, text=True)
    if "cannot find" in built.stderr:
        pytest.skip("this compiler has no thread sanitizer")
    assert built.returncode == 0, built.stderr
    done = subprocess.run([str(program)], capture_output=True, text=True)
    if "unexpected memory mapping" in done.stderr:
        pytest.skip("this kernel scatters addresses further than the thread sanitizer can follow")
    assert (done.returncode, done.stderr) == (0, "")
