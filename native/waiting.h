// Who waits for admission.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>

namespace monobeam {

// Keys in the order in which they began to wait. It grows and shrinks by blocks. A copy shares them and stays as it is,
// as nothing that it sees of them changes; it may be read beside the original. Not thread-safe otherwise.
class Waiting {
 public:
  size_t size() const { return size_; }
  size_t parts() const { return blocks_.size(); }  // that a copy copies
  size_t bytes() const { return blocks_.size() * sizeof(Block); }

  void push(uint64_t key) {
    const size_t end = first_ + size_;
    if (end == blocks_.size() * kBlock) blocks_.push_back(std::make_shared<Block>());
    (*blocks_.back())[end % kBlock] = key;
    ++size_;
  }

  // There must be one.
  uint64_t oldest() const { return (*blocks_.front())[first_]; }
  void pop() {
    --size_;
    if (++first_ < kBlock) return;
    blocks_.pop_front();
    first_ = 0;
  }

  // Calls visit(keys, count) for all of them in order, some at a time.
  template <typename Visit>
  void for_each_part(Visit visit) const {
    size_t first = first_, left = size_;
    for (const auto& block : blocks_) {
      const size_t count = left < kBlock - first ? left : kBlock - first;
      visit(block->data() + first, count);
      left -= count;
      first = 0;
    }
  }

 private:
  static constexpr size_t kBlock = 512;
  using Block = std::array<uint64_t, kBlock>;

  std::deque<std::shared_ptr<Block>> blocks_;
  size_t first_ = 0;  // in the first block
  size_t size_ = 0;
};

}  // namespace monobeam
