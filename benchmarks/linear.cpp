// What benchmarks/linear.py times: reads, products in registers, and linear over copies of a matrix.
#include <stdlib.h>
#include <sys/mman.h>

#include <chrono>

#include "linear.h"

using namespace pagedc;
using Clock = std::chrono::steady_clock;

struct Bench {
  Team team;
  uint8_t* arena;
  float* out;
  bf16* x;
};

static double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

extern "C" Bench* bench_create(int threads, int64_t arena_bytes, int64_t x_bytes, int64_t out_bytes) {
  Bench* bench = new Bench{Team(threads), static_cast<uint8_t*>(aligned_alloc(1 << 21, arena_bytes)),
                           static_cast<float*>(aligned_alloc(4096, out_bytes)),
                           static_cast<bf16*>(aligned_alloc(4096, x_bytes))};
  madvise(bench->arena, arena_bytes, MADV_HUGEPAGE);  // as weights are mapped
  memset(bench->arena, 0x3c, arena_bytes);  // an ordinary number in every format
  memset(bench->x, 0x3c, x_bytes);
  memset(bench->out, 0, out_bytes);
  return bench;
}

// Seconds to read the arena once.
extern "C" double bench_read(Bench* bench, int64_t bytes) {
  const auto start = Clock::now();
  bench->team.run([&](Worker& worker) {
    worker.parallel_for(bytes, 1 << 20, [&](int64_t begin, int64_t end) {
      typedef int64_t Line __attribute__((vector_size(64)));
      const Line* lines = reinterpret_cast<const Line*>(bench->arena);
      Line a = {}, b = {}, c = {}, d = {};
      for (int64_t i = begin / 64; i < end / 64; i += 4) {
        a ^= lines[i];
        b ^= lines[i + 1];
        c ^= lines[i + 2];
        d ^= lines[i + 3];
      }
      a ^= b ^ c ^ d;
      asm volatile("" ::"m"(a));
    });
  });
  return seconds_since(start);
}

// Floating-point operations per second of the product that a bf16 linear is made of, operands in registers.
extern "C" double bench_peak(Bench* bench, int64_t iterations) {
#if defined(PAGEDC_AVX512)
  constexpr int CHAINS = 8;  // a register each
#else
  constexpr int CHAINS = 4;
#endif
  const auto start = Clock::now();
  bench->team.run([&](Worker&) {
    const BF16::Raw raw = BF16::load(bench->arena);
    const auto weight = BF16::weight<0>(raw);
    const auto x = broadcast_x(reinterpret_cast<const BF16::X*>(bench->x));
    Vec16 sums[CHAINS];
#pragma GCC unroll 8
    for (int j = 0; j < CHAINS; ++j) sums[j] = broadcast(static_cast<float>(j));  // equal chains would be merged
    for (int64_t i = 0; i < iterations; ++i) {
      asm volatile("");  // the loop stays
#pragma GCC unroll 8
      for (int j = 0; j < CHAINS; ++j) sums[j] = product(weight, x, sums[j]);
    }
    float out[CHAINS * PANEL_ROWS];
#pragma GCC unroll 8
    for (int j = 0; j < CHAINS; ++j) pagedc::store(out + j * PANEL_ROWS, sums[j]);
    asm volatile("" ::"m"(out));
  });
  return bench->team.size() * iterations * CHAINS * 2.0 * PANEL_ROWS * BF16::X_PER_WEIGHT / seconds_since(start);
}

template <class W, int N, int K>
double time_linear(Bench* bench, int64_t T, int64_t stride, int copies) {
  const auto start = Clock::now();
  bench->team.run([&](Worker& worker) {
    for (int copy = 0; copy < copies; ++copy) {
      float* out = bench->out;
      linear<W, N, K>(worker, T, reinterpret_cast<const typename W::Input*>(bench->x), K, bench->arena + copy * stride,
                      [out](int64_t t, int n, const float* acc, int count) __attribute__((always_inline)) {
                        for (int i = 0; i < count; ++i) out[t * N + n + i] = acc[i];
                      });
      worker.barrier();
    }
  });
  return seconds_since(start) / copies;
}
