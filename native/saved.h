// What writing and reading a saved table share.
#pragma once

#include <algorithm>
#include <cstdint>

#include "table.h"

namespace monobeam {

constexpr uint64_t kTableMagic = 0x454c424154424d00;  // "\0MBTABLE"
constexpr uint32_t kTableVersion = 4;
constexpr uint32_t kBlockRows = 64;  // of a file: a word has a bit for each

// Tells how far a file is, no more often than every 16 MiB and at the end.
class Teller {
 public:
  Teller(const Progress& progress, uint64_t all) : progress_(progress), all_(all) {}

  void at(uint64_t done) {
    if (!progress_ || (done < next_ && done < all_)) return;
    next_ = done + kEvery;
    progress_(std::min(done, all_), all_);
  }

 private:
  static constexpr uint64_t kEvery = uint64_t{16} << 20;

  const Progress& progress_;
  uint64_t all_;
  uint64_t next_ = 0;
};

}  // namespace monobeam
