// How much memory a table may use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <string>

namespace monobeam {

// A table that may not grow any more; what it holds is unharmed.
class TableFull : public std::bad_alloc {
 public:
  explicit TableFull(const std::string& why) : why_("the table is full: " + why) {}
  const char* what() const noexcept override { return why_.c_str(); }

 private:
  std::string why_;
};

// Linux promises memory that it may not have, and ends the process that uses it; so who grows asks here first.
class Budget {
 public:
  // 0: without limit.
  explicit Budget(uint64_t limit) : limit_(limit) {}

  void take(size_t bytes) {
    if (limit_ > 0 && used_ + bytes > limit_) {
      throw TableFull("it uses " + std::to_string(used_) + " bytes, and memory_limit is " + std::to_string(limit_));
    }
    used_ += bytes;
  }
  void give(size_t bytes) { used_ -= bytes; }

 private:
  uint64_t limit_;
  uint64_t used_ = 0;
};

}  // namespace monobeam
