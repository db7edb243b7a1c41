// A moment of a table that goes on changing.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <unordered_map>
#include <vector>

#include "bits.h"

namespace monobeam {

// How numbered units of memory looked at a moment. Whoever is about to change one puts it aside first; whoever reads
// the moment, unit after unit, takes what was put aside or else the unit itself, and marks it as passed, so that nobody
// puts it aside any more. Not thread-safe.
class BeforeImages {
 public:
  // `units` of `bytes` each.
  BeforeImages(uint64_t units, size_t bytes) : units_(units), bytes_(bytes), done_(units) {}

  // Where to copy the unit to before it changes; null if that is not needed, or not any more.
  uint8_t* keep(uint64_t unit) {
    if (unit >= units_ || done_.test(unit)) return nullptr;
    if (blocks_.empty() || left_ == 0) {
      const size_t images = kBlock / bytes_ + 1;
      blocks_.push_back(std::make_unique<uint8_t[]>(images * bytes_));
      left_ = images;
      next_ = blocks_.back().get();
    }
    images_[unit] = next_;
    done_.set(unit);  // last, as all of the above can run out of memory
    --left_;
    next_ += bytes_;
    return images_[unit];
  }

  // Marks a unit that did not exist at the moment.
  void absent(uint64_t unit) {
    if (unit < units_) done_.set(unit);
  }

  // True: the unit is as it was, read it now. False: read image(), which is null for an absent unit.
  bool pass(uint64_t unit) { return !done_.set(unit); }

  const uint8_t* image(uint64_t unit) const {
    const auto found = images_.find(unit);
    return found == images_.end() ? nullptr : found->second;
  }

 private:
  static constexpr size_t kBlock = size_t{1} << 18;

  uint64_t units_;
  size_t bytes_;
  Bits done_;
  std::unordered_map<uint64_t, uint8_t*> images_;
  std::vector<std::unique_ptr<uint8_t[]>> blocks_;
  uint8_t* next_ = nullptr;
  size_t left_ = 0;
};

}  // namespace monobeam
