// Anonymous memory taken from and given back to the operating system directly: malloc may keep what is freed.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

namespace monobeam {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kPage = 4096;  // or more: advice on a part of a page is refused

// What one table asks for at most.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr size_t kMostReserved = size_t{1} << 26;  // sanitizers prepare all of it
#else
constexpr size_t kMostReserved = size_t{1} << 40;
#endif

// A range of addresses, aligned to huge pages, whose memory appears zero-filled where it is first written. So an array
// in it grows without ever moving, and costs what is used of it.
class Reservation {
 public:
  Reservation() = default;

  explicit Reservation(size_t bytes) : bytes_((bytes + kHugePage - 1) / kHugePage * kHugePage) {
    if (!map()) throw std::bad_alloc();
  }

  // Where the process has no room for so many bytes (RLIMIT_AS), a half of the largest half, quarter and so on that
  // there is: others need room too.
  static Reservation at_most(size_t bytes) {
    Reservation found;
    for (size_t size = bytes + kHugePage - 1; size >= kHugePage; size /= 2) {
      found.bytes_ = size / kHugePage * kHugePage;
      if (!found.map()) continue;
      return size >= bytes ? std::move(found) : Reservation(found.release() / 2);
    }
    throw std::bad_alloc();
  }

  Reservation(Reservation&& other) noexcept { swap(other); }
  Reservation& operator=(Reservation&& other) noexcept {
    swap(other);
    return *this;
  }

  ~Reservation() { release(); }

  char* data() const { return data_; }
  size_t bytes() const { return bytes_; }

  // Huge pages halve the cost of random access, but would make small tables large.
  void want_huge_pages(size_t offset, size_t bytes) const {
#ifdef MADV_HUGEPAGE
    madvise(data_ + offset, bytes, MADV_HUGEPAGE);
#else
    (void)offset, (void)bytes;
#endif
  }

  // Has the memory of a range ready, in huge pages, as far as there is any.
  void populate(size_t offset, size_t bytes) const {
    const size_t first = offset / kHugePage * kHugePage;
    const size_t end = std::min((offset + bytes + kHugePage - 1) / kHugePage * kHugePage, bytes_);
    want_huge_pages(first, end - first);
#ifdef MADV_POPULATE_WRITE
    madvise(data_ + first, end - first, MADV_POPULATE_WRITE);
#endif
  }

  // The memory of the pages that lie wholly in the range becomes somebody else's. All of the range is zeros then.
  void give_back(size_t offset, size_t bytes) const {
    const size_t first = (offset + kPage - 1) / kPage * kPage, end = (offset + bytes) / kPage * kPage;
    if (first >= end || madvise(data_ + first, end - first, MADV_DONTNEED) != 0) {
      std::memset(data_ + offset, 0, bytes);
      return;
    }
    std::memset(data_ + offset, 0, first - offset);
    std::memset(data_ + end, 0, offset + bytes - end);
  }

 private:
  bool map() {
    void* found = mmap(nullptr, bytes_ + kHugePage, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (found == MAP_FAILED) return false;
    mapped_ = static_cast<char*>(found);
    data_ = mapped_ + (-reinterpret_cast<uintptr_t>(mapped_) & (kHugePage - 1));
    return true;
  }

  // Returns how many bytes there were.
  size_t release() {
    if (mapped_ != nullptr) munmap(mapped_, bytes_ + kHugePage);
    mapped_ = nullptr;
    return bytes_;
  }

  void swap(Reservation& other) noexcept {
    std::swap(mapped_, other.mapped_);
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
  }

  char* mapped_ = nullptr;
  char* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace monobeam
