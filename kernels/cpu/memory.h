// Zeroed memory of the operating system: pages come when they are first touched, so a large KV cache costs nothing at boot
// but its first page, which the first step would else wait for.
#pragma once

#include <stddef.h>
#include <stdint.h>
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
    // It begins with a huge page of its own: else the used beginning of each layer's KV cache lies in two of them, 24 MB more
    // of a model of 30 layers. Only Linux from 6.7 on puts it there by itself.
    const size_t slack = size < HUGE_PAGE ? 0 : HUGE_PAGE;
    size_ = size > 0 ? size : 1;
    if (slack > 0) size_ = (size_ + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE;
    void* mapped =
        mmap(nullptr, size_ + slack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) return false;
    char* data = static_cast<char*>(mapped);
    if (slack > 0) {
      const size_t before = (HUGE_PAGE - reinterpret_cast<uintptr_t>(data) % HUGE_PAGE) % HUGE_PAGE;
      if (before > 0) munmap(data, before);
      if (before < slack) munmap(data + before + size_, slack - before);
      data += before;
    }
#if defined(MADV_HUGEPAGE)
    madvise(data, size_, MADV_HUGEPAGE);
#endif
    data_ = data;
    *static_cast<volatile char*>(data_) = 0;
    return true;
  }

  char* data() const { return data_; }

 private:
  char* data_ = nullptr;
  size_t size_ = 0;
};

}  // namespace pagedc
