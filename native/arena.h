// Where rows live: at numbers that stay theirs until they are released.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "mapping.h"

namespace monobeam {

class FileReader;
class FileWriter;

constexpr uint64_t kMaxRows = uint64_t{1} << 31;

// A bit for each row.
class RowBits {
 public:
  explicit RowBits(uint64_t rows) : memory_(rows / 8), words_(reinterpret_cast<uint64_t*>(memory_.data())) {}

  bool test(uint32_t row) const { return words_[row / 64] >> row % 64 & 1; }
  void clear(uint32_t row) { words_[row / 64] &= ~(uint64_t{1} << row % 64); }
  // What it was.
  bool set(uint32_t row) {
    uint64_t& word = words_[row / 64];
    const uint64_t bit = uint64_t{1} << row % 64;
    const bool before = word & bit;
    word |= bit;
    return before;
  }

  uint64_t& word(size_t number) { return words_[number]; }
  uint64_t word(size_t number) const { return words_[number]; }
  void prefetch(uint32_t row) const { __builtin_prefetch(&words_[row / 64], 1); }

 private:
  Reservation memory_;
  uint64_t* words_;
};

// A row is its floats (embedding, then optimizer state), aligned to 16 bytes, and a count of its updates. The lowest
// free row is always given out next, so live rows gather at low numbers; rows are counted in chunks, and the memory of
// an empty chunk goes back to the operating system. What is live determines what comes next; there is no other history.
// Invariants: a marked row is live; a chunk is in open_ if and only if it has a free row. Not thread-safe.
class Arena {
 public:
  explicit Arena(size_t floats_per_row)
      : floats_per_row_(floats_per_row),
        stride_((floats_per_row + 3) / 4 * 4),
        shift_(chunk_shift(stride_)),
        memory_(std::min(kMaxRows * stride_ * sizeof(float), kMostBytes) + kHugePage),
        floats_(reinterpret_cast<float*>(memory_.data())),
        capacity_(capacity_of(memory_.bytes())),
        counts_memory_(capacity_ * sizeof(uint16_t)),
        counts_(reinterpret_cast<uint16_t*>(counts_memory_.data())),
        live_(capacity_),
        listed_(capacity_),
        touched_(capacity_) {}

  size_t size() const { return size_; }
  uint32_t rows_per_chunk() const { return uint32_t{1} << shift_; }
  // Rows at and above this were never given out.
  uint64_t limit() const { return static_cast<uint64_t>(chunks_.size()) << shift_; }

  // Of chunks with live rows, and three bits for each row.
  size_t bytes() const {
    size_t used = 0;
    for (const Chunk& chunk : chunks_) used += chunk.live > 0;
    return used * (chunk_bytes() + rows_per_chunk() * sizeof(uint16_t)) + limit() * 3 / 8 +
           chunks_.size() * sizeof(Chunk) + carries_.size() * kCarryBytes;
  }

  // The floats are not initialised; the count is 0.
  uint32_t allocate() {
    if (open_.empty()) add_chunk();
    const uint32_t number = *open_.begin();
    const uint32_t row = number << shift_ | lowest_free(number);
    occupy(row);
    return row;
  }

  void release(uint32_t row) {
    clear_marks(row);
    live_.clear(row);
    set_updates(row, 0);
    const uint32_t number = row >> shift_;
    Chunk& chunk = chunks_[number];
    chunk.first_free_word = std::min(chunk.first_free_word, (row & (rows_per_chunk() - 1)) / 64);
    if (chunk.live == rows_per_chunk()) open_.insert(number);
    --chunk.live;
    --size_;
    if (chunk.live == 0 && chunk_bytes() > 0) memory_.give_back(number * chunk_bytes(), chunk_bytes());
  }

  bool live(uint32_t row) const { return row < limit() && live_.test(row); }

  float* floats(uint32_t row) const { return floats_ + row * stride_; }

  // For a row that will be read, or updated: any number will do.
  void prefetch(uint32_t row, size_t floats) const {
    const char* data = reinterpret_cast<const char*>(floats_ + row * stride_);
    for (size_t at = 0; at < floats * sizeof(float); at += 64) __builtin_prefetch(data + at);
  }
  void prefetch_update(uint32_t row) const {
    prefetch(row, floats_per_row_);
    __builtin_prefetch(&counts_[row], 1);
    touched_.prefetch(row);
  }

  uint64_t updates(uint32_t row) const {
    if (carries_.empty()) return counts_[row];
    const auto carry = carries_.find(row);
    return (carry == carries_.end() ? 0 : carry->second << 16) + counts_[row];
  }
  void set_updates(uint32_t row, uint64_t updates) {
    counts_[row] = static_cast<uint16_t>(updates);
    if (updates >> 16) {
      carries_[row] = updates >> 16;
    } else if (!carries_.empty()) {
      carries_.erase(row);
    }
  }
  void add_updates(uint32_t row, uint32_t more) {
    const uint32_t sum = counts_[row] + more;
    counts_[row] = static_cast<uint16_t>(sum);
    if (sum >> 16) carries_[row] += sum >> 16;
  }

  // Two marks that the table puts on rows, and what they were: a row is listed where its key was noted, and touched by
  // an update.
  bool list(uint32_t row) { return listed_.set(row); }
  bool touch(uint32_t row) { return touched_.set(row); }
  bool listed(uint32_t row) const { return listed_.test(row); }
  bool touched(uint32_t row) const { return touched_.test(row); }
  void clear_marks(uint32_t row) {
    listed_.clear(row);
    touched_.clear(row);
  }

  void write(FileWriter& file) const;  // save.cpp
  void read(FileReader& file);

  // Calls visit(row) in rising order.
  template <typename Visit>
  void for_each(Visit visit) const {
    for (size_t word = 0; word < limit() / 64; ++word) {
      for (uint64_t bits = live_.word(word); bits != 0; bits &= bits - 1) {
        visit(static_cast<uint32_t>(word * 64 + __builtin_ctzll(bits)));
      }
    }
  }

  void check() const {
    size_t live_rows = 0;
    for (size_t number = 0; number < chunks_.size(); ++number) {
      const Chunk& chunk = chunks_[number];
      uint32_t live_here = 0;
      for (size_t word = 0; word < rows_per_chunk() / 64; ++word) {
        const size_t at = number * (rows_per_chunk() / 64) + word;
        live_here += __builtin_popcountll(live_.word(at));
        if (touched_.word(at) & ~live_.word(at)) fail(number, "has a touched row that is not live");
        if (listed_.word(at) & ~live_.word(at)) fail(number, "has a listed row that is not live");
        if (word < chunk.first_free_word && ~live_.word(at)) fail(number, "has a free row below its first");
      }
      if (live_here != chunk.live) fail(number, "counts its live rows wrong");
      if ((live_here < rows_per_chunk()) != (open_.count(number) == 1)) fail(number, "is open or closed by mistake");
      live_rows += live_here;
    }
    if (live_rows != size_) throw std::runtime_error("arena: wrong number of live rows");
    for (const auto& [row, carry] : carries_) {
      if (!live(row) || carry == 0) throw std::runtime_error("arena: a carry without a row or a value");
    }
  }

 private:
  struct Chunk {
    uint32_t live = 0;
    uint32_t first_free_word = 0;  // no row below it is free
  };

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  static constexpr size_t kMostBytes = size_t{1} << 30;  // sanitizers prepare all of it
#else
  static constexpr size_t kMostBytes = size_t{1} << 40;
#endif
  static constexpr size_t kCarryBytes = 48;  // a node of the map

  // The most rows, as a power of two, that fit into 2 MiB: one huge page, and a useful unit to give back.
  static uint32_t chunk_shift(size_t stride) {
    uint32_t shift = 16;
    while (shift > 6 && (stride * sizeof(float) << shift) > kHugePage) --shift;
    return shift;
  }

  [[noreturn]] static void fail(size_t chunk, const char* what) {
    throw std::runtime_error("arena: chunk " + std::to_string(chunk) + " " + what);
  }

  uint64_t capacity_of(size_t bytes) const {
    return stride_ == 0 ? kMaxRows : std::min<uint64_t>(kMaxRows, bytes / chunk_bytes() << shift_);
  }

  size_t chunk_bytes() const { return stride_ * sizeof(float) << shift_; }

  void add_chunk() {
    if (limit() + rows_per_chunk() > capacity_) {
      throw std::length_error("the table is full: it holds at most " + std::to_string(capacity_) + " rows");
    }
    const size_t number = chunks_.size();
    if (number > 0 && chunk_bytes() > 0) memory_.want_huge_pages(number * chunk_bytes(), chunk_bytes());
    chunks_.push_back({});
    open_.insert(static_cast<uint32_t>(number));
  }

  uint32_t lowest_free(uint32_t number) {
    Chunk& chunk = chunks_[number];
    const size_t first = size_t{number} * (rows_per_chunk() / 64);
    while (live_.word(first + chunk.first_free_word) == ~uint64_t{0}) ++chunk.first_free_word;
    return chunk.first_free_word * 64 + __builtin_ctzll(~live_.word(first + chunk.first_free_word));
  }

  // Makes this very row live; it must be free.
  void restore(uint32_t row) {
    while (row >= limit()) add_chunk();
    occupy(row);
  }

  void occupy(uint32_t row) {
    Chunk& chunk = chunks_[row >> shift_];
    live_.set(row);
    ++chunk.live;
    ++size_;
    if (chunk.live == rows_per_chunk()) open_.erase(row >> shift_);
  }

  size_t floats_per_row_;
  size_t stride_;   // floats, a multiple of 16 bytes
  uint32_t shift_;  // log2 of the rows of a chunk
  Reservation memory_;
  float* floats_;
  uint64_t capacity_;
  Reservation counts_memory_;
  uint16_t* counts_;                     // the low 16 bits of the update counts
  std::map<uint32_t, uint64_t> carries_;  // the others, of the few rows that have them
  RowBits live_, listed_, touched_;
  std::vector<Chunk> chunks_;
  std::set<uint32_t> open_;
  size_t size_ = 0;
};

}  // namespace monobeam
