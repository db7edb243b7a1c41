// How much memory a table may use.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <new>
#include <string>

#include "machine.h"

namespace monobeam {

// A table that may not grow any more; what it holds is unharmed.
class TableFull : public std::bad_alloc {
 public:
  explicit TableFull(const std::string& why) : why_("the table is full: " + why) {}
  const char* what() const noexcept override { return why_.c_str(); }

 private:
  std::string why_;
};

// Linux promises memory that it may not have, and ends the process that uses it; so who grows asks here first. What
// counts are buckets and rows with their notes: nearly all that a table has. Not what it must remember in order to take
// rows away, or an erase could fail for want of memory; nor the rare: keys outside of buckets, counts above 2^14.
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
  // Complains if there cannot be so many bytes in all.
  void expect(uint64_t bytes) const {
    const uint64_t machine = memory_of_machine();
    if (bytes <= (limit_ > 0 ? std::min(limit_, machine) : machine)) return;
    throw TableFull(std::to_string(bytes) + " bytes are more than " +
                    (limit_ > 0 && limit_ < bytes ? "memory_limit, which is " + std::to_string(limit_)
                                                  : "there is for this process, " + std::to_string(machine)));
  }
  void give(size_t bytes) { used_ -= bytes; }
  uint64_t used() const { return used_; }

 private:
  uint64_t limit_;
  uint64_t used_ = 0;
};

}  // namespace monobeam
