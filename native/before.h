// A moment of a table that goes on changing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>
#include <vector>

#include "bits.h"
#include "mapping.h"

namespace monobeam {

// How numbered units of memory looked at a moment. Whoever is about to change one puts it aside first; whoever reads
// the moment, unit after unit, takes what was put aside or else the unit itself, and marks it as passed, so that nobody
// puts it aside any more. Whoever changes a unit cannot fail for the sake of the moment: where there is no memory to
// put something aside, the moment is lost. Nothing here takes longer the more was put aside. Not thread-safe.
class BeforeImages {
 public:
  // For up to `most` units of `bytes` each. What is needed of every unit is ready in memory: whoever changes one waits
  // for no page.
  BeforeImages(uint64_t most, size_t bytes)
      : most_(most),
        bytes_(bytes),
        per_block_(static_cast<uint32_t>(kBlock / bytes + 1)),
        done_(most),
        numbers_memory_(most * sizeof(uint32_t)),
        numbers_(reinterpret_cast<uint32_t*>(numbers_memory_.data())) {
    done_.populate();
    numbers_memory_.populate(0, numbers_memory_.bytes());
  }

  uint64_t most() const { return most_; }

  // The moment is now, and there are so many units. Until then there are none.
  void begin(uint64_t units) { units_ = units; }

  // Where to copy the unit to before it changes; null if that is not needed, or not any more.
  uint8_t* keep(uint64_t unit) noexcept {
    if (unit >= units_ || done_.test(unit) || lost_) return nullptr;
    try {
      if (count_ == blocks_.size() * per_block_) add_block();
    } catch (const std::bad_alloc&) {
      lost_ = true;
      return nullptr;
    }
    done_.set(unit);
    numbers_[unit] = ++count_;
    return place(count_);
  }

  bool lost() const { return lost_; }

  // Marks a unit that did not exist at the moment.
  void absent(uint64_t unit) {
    if (unit < units_) done_.set(unit);
  }

  // Whether the unit is as it was: read it, then pass it. If not, read image(), which is null for an absent unit.
  bool intact(uint64_t unit) const { return !done_.test(unit); }
  void pass(uint64_t unit) { done_.set(unit); }

  const uint8_t* image(uint64_t unit) const { return numbers_[unit] == 0 ? nullptr : place(numbers_[unit]); }

 private:
  static constexpr size_t kBlock = size_t{1} << 18;

  void add_block() {
    std::unique_ptr<uint8_t[]> block(new uint8_t[per_block_ * bytes_]);
    blocks_.push_back(std::move(block));
  }

  // Images are numbered from 1.
  uint8_t* place(uint32_t number) const {
    return blocks_[(number - 1) / per_block_].get() + (number - 1) % per_block_ * bytes_;
  }

  uint64_t most_, units_ = 0;
  size_t bytes_;
  uint32_t per_block_;
  Bits done_;
  Reservation numbers_memory_;
  uint32_t* numbers_;  // of the image of each unit
  std::vector<std::unique_ptr<uint8_t[]>> blocks_;
  uint32_t count_ = 0;  // images
  bool lost_ = false;
};

}  // namespace monobeam
