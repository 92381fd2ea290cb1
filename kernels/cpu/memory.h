// Zeroed memory of the operating system: pages come when they are first touched, so a large KV cache costs nothing at boot
// but its first page, which the first step would else wait for.
#pragma once

#include <stddef.h>
#include <sys/mman.h>

namespace pagedc {

class Memory {
  static constexpr size_t HUGE_PAGE = 2 << 20;

 public:
  Memory() = default;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() {
    if (data_ != nullptr) munmap(data_, size_);
  }

  // False when there is no room. Called once.
  bool reserve(size_t size) {
    // Whole huge pages: from 6.7 on Linux puts it at the beginning of one. Else the used beginning of each layer's KV
    // cache lies in two of them: 24 MB more of a model of 30 layers.
    size_ = size < HUGE_PAGE ? (size > 0 ? size : 1) : (size + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    void* data = mmap(nullptr, size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data == MAP_FAILED) return false;
#if defined(MADV_HUGEPAGE)
    madvise(data, size_, MADV_HUGEPAGE);
#endif
    data_ = static_cast<char*>(data);
    *static_cast<volatile char*>(data_) = 0;
    return true;
  }

  char* data() const { return data_; }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace pagedc
