// A fixed team of threads that all run the same function (SPMD).
//
// A step of the model is one function that every thread enters; between two kernels stands a barrier of two atomics
// instead of a fork and a join. Between steps the threads spin for a moment, then sleep in the kernel. Where the team has
// more threads than the process has CPUs, a thread that waits gives its CPU away at once.
#pragma once

#include <sched.h>
#include <stdint.h>

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "common.h"

namespace pagedc {

PAGEDC_INLINE void cpu_relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

class Team;

// One thread's view of the team while a step runs.
class Worker {
 public:
  const int rank;
  const int size;

  Worker(Team& team, int rank, int size) : rank(rank), size(size), team_(team) {}

  // Every thread of the team arrives before any goes on.
  inline void barrier();

  // f(begin, end) over chunks of [0, count), `grain` long, each on whichever thread is free; a thread's chunks rise. All
  // threads enter the same loops in the same order. There is no barrier at the end.
  template <class F>
  void parallel_for(int64_t count, int64_t grain, const F& f);

 private:
  Team& team_;
  int loop_ = 0;
  uint32_t epoch_ = 0;
  friend class Team;
};

class Team {
 public:
  static constexpr int MAX_LOOPS = 8;  // between two barriers; the ninth brings a barrier of its own

  // Throws std::system_error when the system gives no more threads.
  explicit Team(int size) : size_(size > 1 ? size : 1), spins_(size_ <= num_cpus()) {
    try {
      threads_.reserve(size_ - 1);
      for (int rank = 1; rank < size_; ++rank) threads_.emplace_back([this, rank] { serve(rank); });
    } catch (...) {
      stop();
      throw;
    }
  }

  ~Team() { stop(); }

  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int size() const { return size_; }

  // f(worker) on every thread; the caller is rank 0. Returns when all are done. One caller at a time; f does not throw.
  template <class F>
  void run(const F& f) {
    job_ = [](const void* function, Worker& worker) { (*static_cast<const F*>(function))(worker); };
    job_data_ = &f;
    if (size_ > 1) wake();
    Worker worker(*this, 0, size_);
    worker.epoch_ = epoch_.load(std::memory_order_relaxed);
    f(worker);
    worker.barrier();
  }

 private:
  struct alignas(64) Counter {
    std::atomic<int64_t> next{0};
  };

  static constexpr int SPINS_BEFORE_SLEEP = 4000;  // about 100 µs: a step's preparation in Python is shorter
  static constexpr int SPINS_BEFORE_YIELD = 2000;

  // CPUs that this process may run on: fewer than the machine has under taskset or in a container with a cpuset.
  static int num_cpus() {
    cpu_set_t cpus;
    if (sched_getaffinity(0, sizeof cpus, &cpus) == 0) return CPU_COUNT(&cpus);
    return static_cast<int>(std::thread::hardware_concurrency());
  }

  void stop() {
    stop_ = true;
    wake();
    for (std::thread& thread : threads_) thread.join();
  }

  void wake() {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      generation_.fetch_add(1, std::memory_order_release);
    }
    condition_.notify_all();
  }

  void serve(int rank) {
    uint32_t seen = 0;
    for (;;) {
      const auto has_job = [&] { return generation_.load(std::memory_order_acquire) != seen; };
      for (int i = 0; spins_ && i < SPINS_BEFORE_SLEEP && !has_job(); ++i) cpu_relax();
      if (!has_job()) {
        std::unique_lock<std::mutex> lock(mutex_);
        condition_.wait(lock, has_job);
      }
      ++seen;
      if (stop_) return;
      Worker worker(*this, rank, size_);
      worker.epoch_ = epoch_.load(std::memory_order_relaxed);
      job_(job_data_, worker);
      worker.barrier();
    }
  }

  const int size_;
  const bool spins_;
  std::vector<std::thread> threads_;
  std::mutex mutex_;
  std::condition_variable condition_;
  std::atomic<bool> stop_{false};
  alignas(64) std::atomic<uint32_t> generation_{0};  // of jobs; written before each, with job_ and job_data_
  void (*job_)(const void*, Worker&) = nullptr;
  const void* job_data_ = nullptr;
  alignas(64) std::atomic<int> arrived_{0};
  alignas(64) std::atomic<uint32_t> epoch_{0};
  Counter counters_[MAX_LOOPS];
  friend class Worker;
};

inline void Worker::barrier() {
  loop_ = 0;
  if (size == 1) return;
  const uint32_t epoch = epoch_++;
  if (team_.arrived_.fetch_add(1, std::memory_order_acq_rel) == size - 1) {
    for (auto& counter : team_.counters_) counter.next.store(0, std::memory_order_relaxed);
    team_.arrived_.store(0, std::memory_order_relaxed);
    team_.epoch_.store(epoch + 1, std::memory_order_release);
    return;
  }
  for (int i = 0; team_.epoch_.load(std::memory_order_acquire) == epoch; ++i) {
    if (team_.spins_ && i < Team::SPINS_BEFORE_YIELD)
      cpu_relax();
    else
      sched_yield();
  }
}

template <class F>
void Worker::parallel_for(int64_t count, int64_t grain, const F& f) {
  if (size == 1) {
    for (int64_t begin = 0; begin < count; begin += grain) f(begin, begin + grain < count ? begin + grain : count);
    return;
  }
  if (loop_ == Team::MAX_LOOPS) barrier();
  std::atomic<int64_t>& next = team_.counters_[loop_++].next;
  for (;;) {
    const int64_t begin = next.fetch_add(grain, std::memory_order_relaxed);
    if (begin >= count) return;
    f(begin, begin + grain < count ? begin + grain : count);
  }
}

}  // namespace pagedc
