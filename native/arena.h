// Where rows live: at numbers that stay theirs until they are released.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <set>
#include <unordered_map>
#include <vector>

#include "before.h"
#include "bits.h"
#include "budget.h"
#include "mapping.h"
#include "widths.h"

namespace monobeam {

constexpr uint64_t kMaxRows = uint64_t{1} << 31;

// A row besides its bytes.
struct RowNote {
  uint64_t updates;
  bool touched;
};

// A row is some bytes, aligned to 16, and a note of two bytes beside them: whether it is live, whether it was touched,
// how often it was updated. The lowest free row is always given out next, so live rows gather at low numbers; rows are
// counted in chunks, and the memory of an empty chunk goes back to the operating system. What is live determines what
// comes next; there is no other history.
//
// The bytes of a row that is not live are zeros, so that reading needs no look at the note. Not thread-safe.
class Arena {
 public:
  Arena(size_t bytes_per_row, Budget& budget);

  size_t size() const { return size_; }
  uint32_t rows_per_chunk() const { return uint32_t{1} << shift_; }
  // Rows at and above this were never given out.
  uint64_t limit() const { return static_cast<uint64_t>(chunks_.size()) << shift_; }
  uint64_t capacity() const { return capacity_; }
  size_t bytes_per_row() const { return bytes_per_row_; }
  size_t stride() const { return stride_; }
  size_t bytes() const { return cost() + carries_.size() * kCarryBytes; }
  size_t cost() const;  // of chunks with live rows, and all notes: what counts for the budget
  uint64_t touched_rows() const { return touched_; }

  uint8_t* row(uint32_t row) const { return data_ + row * stride_; }
  bool live(uint32_t row) const { return row < limit() && (notes_[row] & kLive) != 0; }
  bool touched(uint32_t row) const { return (notes_[row] & kTouched) != 0; }
  uint64_t updates(uint32_t row) const {
    const uint64_t low = notes_[row] & kCount;
    if (carries_.empty()) return low;
    const auto carry = carries_.find(row);
    return carry == carries_.end() ? low : carry->second + low;
  }

  // The bytes are zeros, and nothing was updated. TableFull when there is no room; nothing has changed then.
  uint32_t allocate() {
    if (open_.empty()) add_chunk();
    const uint32_t row = lowest_free(*open_.begin());
    occupy(row);
    if (before_ != nullptr) before_->absent(row);
    return row;
  }
  void release(uint32_t row);

  // Has memory for as many rows in all ready: their first use then costs no page fault.
  void populate(uint64_t rows);

  // For whoever writes the bytes of a row, or its count.
  void keep(uint32_t row) {
    if (before_ == nullptr) return;
    if (uint8_t* image = before_->keep(row)) put_aside(row, image);
  }
  void set_updates(uint32_t row, uint64_t updates);

  // What may fail of update(), so that nothing is counted whose step is not made.
  void prepare_update(uint32_t row, uint32_t occurrences) {
    const uint16_t note = notes_[row];
    if ((note & kLive) != 0 && (note & kCount) + occurrences > kCount) carries_.emplace(row, 0);
  }

  // Counts updates and touches the row; false if it is not live.
  bool update(uint32_t row, uint32_t occurrences) {
    uint16_t& note = notes_[row];
    if ((note & kLive) == 0) return false;
    keep(row);
    const uint32_t sum = (note & kCount) + occurrences;
    if (sum > kCount) carries_[row] += sum & ~uint32_t{kCount};
    touched_ += (note & kTouched) == 0;
    note = static_cast<uint16_t>(kLive | kTouched | (sum & kCount));
    return true;
  }

  // Any number will do. Inlined by force: gcc takes a call that only prefetches for one without effect, and drops it.
  MONOBEAM_INLINE void prefetch(uint32_t row) const {
    const char* data = reinterpret_cast<const char*>(this->row(row));
    for (size_t at = 0; at < stride_ && at < kMostPrefetched; at += 64) __builtin_prefetch(data + at, 1, 2);
  }
  MONOBEAM_INLINE void prefetch_note(uint32_t row) const { __builtin_prefetch(&notes_[row], 1, 2); }

  // Forgets which rows were touched; if given, `touched` gets a bit for each of them, which rows that are put aside
  // from then on take along.
  void clear_touched(Bits* touched);

  // Calls visit(row) in rising order.
  template <typename Visit>
  void for_each(Visit visit) const {
    for (uint32_t row = 0; row < limit(); ++row) {
      if (notes_[row] & kLive) visit(row);
    }
  }

  // 64 rows of a file at once: those whose bit is set in `live` become live, with the bytes and notes that
  // next(bytes, row) gives. They must be free, and `first` a multiple of 64 below capacity().
  template <typename Next>
  void restore(uint32_t first, uint64_t live, Next next) {
    while (first >= limit()) add_chunk();
    for (; live != 0; live &= live - 1) {
      const uint32_t row = first + __builtin_ctzll(live);
      occupy(row);
      const RowNote note = next(this->row(row), row);
      set_updates(row, note.updates);
      if (note.touched) touch(row);
    }
  }

  // From now on, rows are put aside before they change (see BeforeImages); null: no longer. An image is a RowNote and
  // the bytes.
  void watch(BeforeImages* before) {
    before_ = before;
    touched_before_ = nullptr;
  }
  size_t image_bytes() const { return sizeof(RowNote) + (bytes_per_row_ + 7) / 8 * 8; }

  void check() const;
  void reset();

 private:
  struct Chunk {
    uint32_t live = 0;
    uint32_t first_free = 0;  // no row of the chunk below it is free
  };

  static constexpr uint16_t kLive = 0x8000, kTouched = 0x4000, kCount = 0x3fff;
  static constexpr size_t kMostPrefetched = 512;
  static constexpr size_t kCarryBytes = 48;  // a node of the map

  size_t chunk_bytes() const { return stride_ << shift_; }
  size_t notes_cost() const { return (sizeof(uint16_t) << shift_) + sizeof(Chunk); }  // of a chunk, empty or not
  void add_chunk();
  bool dead_rows_are_zeros(size_t chunk) const;

  uint32_t lowest_free(uint32_t number) {
    Chunk& chunk = chunks_[number];
    const uint16_t* notes = notes_ + (size_t{number} << shift_);
    while (notes[chunk.first_free] & kLive) ++chunk.first_free;
    return (number << shift_) + chunk.first_free;
  }

  void occupy(uint32_t row) {
    Chunk& chunk = chunks_[row >> shift_];
    if (chunk.live == 0) budget_.take(chunk_bytes());
    notes_[row] = kLive;
    ++chunk.live;
    ++size_;
    if (chunk.live == rows_per_chunk()) open_.erase(row >> shift_);
  }

  void touch(uint32_t row) {
    touched_ += (notes_[row] & kTouched) == 0;
    notes_[row] |= kTouched;
  }

  void put_aside(uint32_t row, uint8_t* image) const {
    const RowNote note = {updates(row), touched_before_ != nullptr ? touched_before_->test(row) : touched(row)};
    std::memcpy(image, &note, sizeof(note));
    std::memcpy(image + sizeof(note), this->row(row), bytes_per_row_);
  }

  Budget& budget_;
  size_t bytes_per_row_;
  size_t stride_;   // bytes, a multiple of 16
  uint32_t shift_;  // log2 of the rows of a chunk
  Reservation memory_;
  uint8_t* data_;
  uint64_t capacity_;
  Reservation notes_memory_;
  uint16_t* notes_;
  std::unordered_map<uint32_t, uint64_t> carries_;  // counts above kCount, of the few rows that have them
  std::vector<Chunk> chunks_;
  std::set<uint32_t> open_;  // chunks with a free row
  size_t size_ = 0;
  uint64_t touched_ = 0;  // rows
  BeforeImages* before_ = nullptr;
  const Bits* touched_before_ = nullptr;  // at the moment of before_, if clear_touched() was called since
};

}  // namespace monobeam
