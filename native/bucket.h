// One cache line of the index: four keys, with the row and the time of each.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "widths.h"

namespace monobeam {

// What a slot's row field says. The key field cannot tell emptiness: every uint64 is a key.
constexpr uint32_t kEmpty = 0xffffffff;
constexpr uint32_t kPending = 0x80000000;    // or'ed with the number of sightings of a key not yet admitted
constexpr uint32_t kMaxPending = 0x7ffffffe;  // sightings saturate here; one more would read as kEmpty

inline bool is_row(uint32_t field) { return field < kPending; }
inline bool is_pending(uint32_t field) { return field >= kPending && field != kEmpty; }

constexpr int kSlots = 4;

// The value of a key in the index.
struct Entry {
  uint32_t row = kEmpty;
  uint32_t seen = 0;
};

// Where an entry lives; null when there is none. Valid until the next insert or erase.
struct Slot {
  uint32_t* row = nullptr;
  uint32_t* seen = nullptr;

  explicit operator bool() const { return row != nullptr; }
};

// The compiler's vectors: four lanes, whatever the machine has for them.
using Lanes64 = uint64_t __attribute__((vector_size(32)));
using Lanes32 = uint32_t __attribute__((vector_size(16)));

// The bits that all four lanes have.
MONOBEAM_INLINE uint32_t and_of(Lanes32 lanes) {
  lanes &= Lanes32{lanes[2], lanes[3], lanes[0], lanes[1]};
  return lanes[0] & lanes[1];
}

// The bits that any of them has.
MONOBEAM_INLINE uint32_t or_of(Lanes32 lanes) {
  lanes |= Lanes32{lanes[2], lanes[3], lanes[0], lanes[1]};
  return lanes[0] | lanes[1];
}

struct alignas(64) Bucket {
  uint64_t key[kSlots];
  uint32_t row[kSlots];
  uint32_t seen[kSlots];  // seconds

  void clear() { std::fill(row, row + kSlots, kEmpty); }

  // The row field of a key, kEmpty when it is not here. Free of branches: the field of the one slot with the key and
  // all ones from every other, and an empty slot says all ones whatever key it had.
  MONOBEAM_INLINE uint32_t get(uint64_t wanted) const { return and_of(rows() | ~having(wanted)); }

  // The slot of a key, or more than any slot.
  MONOBEAM_INLINE uint32_t find(uint64_t wanted) const {
    const Lanes32 here = having(wanted) & reinterpret_cast<Lanes32>(rows() != kEmpty);
    return and_of(Lanes32{0, 1, 2, 3} | ~here);
  }

  // The same for one key at a time, which nearly always is not here.
  MONOBEAM_INLINE uint32_t scan(uint64_t wanted) const {
    for (uint32_t slot = 0; slot < kSlots; ++slot) {
      if (key[slot] == wanted && row[slot] != kEmpty) return slot;
    }
    return kSlots;
  }

  // Like get(), and moves the last-seen time of a key with a row forward to `now`. A line that says nothing new is not
  // written.
  MONOBEAM_INLINE uint32_t stamp(uint64_t wanted, uint32_t now) {
    const uint32_t slot = find(wanted), place = slot % kSlots;
    const uint32_t field = slot < kSlots ? row[place] : kEmpty;
    uint32_t nowhere;
    *(is_row(field) && seen[place] < now ? &seen[place] : &nowhere) = now;
    return field;
  }

  // A bit for each free slot.
  MONOBEAM_INLINE uint32_t free_slots() const {
    return or_of(reinterpret_cast<Lanes32>(rows() == kEmpty) & Lanes32{1, 2, 4, 8});
  }

  int used() const {
    int count = 0;
    for (int slot = 0; slot < kSlots; ++slot) count += row[slot] != kEmpty;
    return count;
  }

 private:
  MONOBEAM_INLINE Lanes32 rows() const { return *reinterpret_cast<const Lanes32*>(row); }

  // All ones in the lanes that hold the key.
  MONOBEAM_INLINE Lanes32 having(uint64_t wanted) const {
    const auto equal = *reinterpret_cast<const Lanes64*>(key) == wanted;
    return __builtin_convertvector(reinterpret_cast<Lanes64>(equal), Lanes32);
  }
};
static_assert(sizeof(Bucket) == 64, "a bucket is one cache line");

}  // namespace monobeam
