// A bit for each number below a limit; memory comes where a bit is first set.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "mapping.h"

namespace monobeam {

class Bits {
 public:
  explicit Bits(uint64_t limit) : memory_(limit / 8 + 8), words_(reinterpret_cast<uint64_t*>(memory_.data())) {}

  bool test(uint64_t number) const { return words_[number / 64] >> number % 64 & 1; }

  // What it was.
  bool set(uint64_t number) {
    uint64_t& word = words_[number / 64];
    const uint64_t bit = uint64_t{1} << number % 64;
    const bool before = word & bit;
    word |= bit;
    return before;
  }

  // Has the memory of all bits ready.
  void populate() const { memory_.populate(0, memory_.bytes()); }

  void clear_all(uint64_t limit) { std::fill_n(words_, limit / 64 + 1, uint64_t{0}); }

  // Calls visit(number) for the bits below the limit that are set, in rising order.
  template <typename Visit>
  void for_each(uint64_t limit, Visit visit) const {
    for (uint64_t word = 0; word <= limit / 64; ++word) {
      for (uint64_t bits = words_[word]; bits != 0; bits &= bits - 1) {
        const uint64_t number = word * 64 + __builtin_ctzll(bits);
        if (number < limit) visit(number);
      }
    }
  }

 private:
  Reservation memory_;
  uint64_t* words_;
};

}  // namespace monobeam
