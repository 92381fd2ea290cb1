// Read bandwidth of this machine: every thread sums its own part of a buffer that no cache holds.
//
// usage: bandwidth THREADS MEGABYTES PASSES, prints the bytes a second of each pass, one a line.
#include <sys/mman.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

namespace {

typedef uint64_t Vec __attribute__((vector_size(64)));
constexpr size_t kPage = 2 << 20;
constexpr size_t kStreams = 8;  // independent sums: one chain of additions would wait for itself

uint64_t sum(const Vec* data, size_t count) {
  Vec sums[kStreams] = {};
  for (size_t i = 0; i + kStreams <= count; i += kStreams)
    for (size_t s = 0; s < kStreams; ++s) sums[s] += data[i + s];
  uint64_t total = 0;
  for (const Vec& vec : sums)
    for (int lane = 0; lane < 8; ++lane) total += vec[lane];
  return total;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  const size_t num_threads = strtoul(argv[1], nullptr, 10);
  const size_t count = strtoul(argv[2], nullptr, 10) * 1000000 / sizeof(Vec) / num_threads;  // a thread
  const int passes = atoi(argv[3]);
  std::vector<Vec*> parts(num_threads);
  std::vector<uint64_t> sums(num_threads);
  auto on_all = [&](auto work) {
    std::vector<std::thread> threads;
    for (size_t t = 0; t < num_threads; ++t) threads.emplace_back(work, t);
    for (std::thread& thread : threads) thread.join();
  };
  const size_t bytes = (count * sizeof(Vec) + kPage - 1) / kPage * kPage;
  on_all([&](size_t t) {  // touched by the thread that will read it
    parts[t] = static_cast<Vec*>(aligned_alloc(kPage, bytes));
    if (!parts[t]) return;
    madvise(parts[t], bytes, MADV_HUGEPAGE);  // as weights are mapped
    memset(parts[t], 1, bytes);
  });
  for (Vec* part : parts)
    if (!part) return 3;
  for (int pass = 0; pass < passes; ++pass) {
    auto begin = std::chrono::steady_clock::now();
    on_all([&](size_t t) { sums[t] += sum(parts[t], count); });
    std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    printf("%.0f\n", double(num_threads * count * sizeof(Vec)) / seconds.count());
  }
  uint64_t total = 0;
  for (uint64_t part : sums) total += part;
  fprintf(stderr, "%llu\n", static_cast<unsigned long long>(total));  // so that no sum is dead code
}
