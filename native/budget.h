// How much memory a table may use.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>

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

// What several tables together may use. Thread-safe.
class Room {
 public:
  explicit Room(uint64_t limit) : limit_(limit) {
    if (limit == 0) throw std::invalid_argument("limit 0 must be at least 1 byte");
  }

  uint64_t limit() const { return limit_; }
  uint64_t used() const { return used_.load(std::memory_order_relaxed); }

  void take(size_t bytes) {
    uint64_t used = this->used();
    do {
      if (used + bytes > limit_) {
        throw TableFull("it and others use " + std::to_string(used) + " bytes, and the limit of their room is " +
                        std::to_string(limit_));
      }
    } while (!used_.compare_exchange_weak(used, used + bytes, std::memory_order_relaxed));
  }
  void give(size_t bytes) { used_.fetch_sub(bytes, std::memory_order_relaxed); }

 private:
  const uint64_t limit_;
  std::atomic<uint64_t> used_{0};
};

// Linux promises memory that it may not have, and ends the process that uses it; so who grows asks here first. What
// counts are buckets and rows with their notes: nearly all that a table has. Not what it must remember in order to take
// rows away, or an erase could fail for want of memory; nor the queue of those that wait, which pending_limit bounds;
// nor the rare: keys outside of buckets, counts above 2^14.
class Budget {
 public:
  // 0: without limit of its own. A room (null: none) gets back all that is still taken in the end.
  explicit Budget(uint64_t limit, std::shared_ptr<Room> room) : limit_(limit), room_(std::move(room)) {}
  Budget(const Budget&) = delete;
  Budget& operator=(const Budget&) = delete;
  ~Budget() {
    if (room_ != nullptr) room_->give(used_);
  }

  void take(size_t bytes) {
    if (limit_ > 0 && used_ + bytes > limit_) {
      throw TableFull("it uses " + std::to_string(used_) + " bytes, and memory_limit is " + std::to_string(limit_));
    }
    if (room_ != nullptr) room_->take(bytes);
    used_ += bytes;
  }
  // Complains if there cannot be so many bytes in all.
  void expect(uint64_t bytes) const {
    refuse_more(bytes, limit_, "memory_limit, which is ");
    refuse_more(bytes, room_ == nullptr ? 0 : room_->limit(), "the limit of its room, which is ");
    refuse_more(bytes, memory_of_machine(), "there is for this process, ");
  }
  void give(size_t bytes) {
    used_ -= bytes;
    if (room_ != nullptr) room_->give(bytes);
  }
  uint64_t used() const { return used_; }

 private:
  static void refuse_more(uint64_t bytes, uint64_t most, const char* what) {
    if (most == 0 || bytes <= most) return;
    throw TableFull(std::to_string(bytes) + " bytes are more than " + what + std::to_string(most));
  }

  const uint64_t limit_;
  const std::shared_ptr<Room> room_;
  uint64_t used_ = 0;
};

}  // namespace monobeam
