// Anonymous memory taken from and given back to the operating system directly: malloc may keep what is freed.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <new>
#include <utility>

namespace monobeam {

class Mapping {
 public:
  Mapping() = default;

  // Zero-filled; pages become resident when they are first written. Huge pages halve the cost of random access, but
  // would make small tables large.
  Mapping(size_t bytes, bool huge_pages) : bytes_(bytes) {
    if (bytes == 0) return;
    data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data_ == MAP_FAILED) {
      data_ = nullptr;
      throw std::bad_alloc();
    }
#ifdef MADV_HUGEPAGE
    if (huge_pages) madvise(data_, bytes, MADV_HUGEPAGE);
#else
    (void)huge_pages;
#endif
  }

  Mapping(Mapping&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  ~Mapping() {
    if (data_ != nullptr) munmap(data_, bytes_);
  }

  char* data() const { return static_cast<char*>(data_); }
  size_t bytes() const { return bytes_; }
  explicit operator bool() const { return data_ != nullptr; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace monobeam
