// Where rows live: in chunks, at numbers that stay theirs until they are released.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

#include "mapping.h"

namespace monobeam {

class FileReader;
class FileWriter;

constexpr uint64_t kMaxRows = uint64_t{1} << 31;

// What a row carries beside its floats.
struct RowMeta {
  uint64_t key;
  uint64_t updates;
};

// A row is its floats (embedding, then optimizer state) and its meta. The lowest free row is always given out next, so
// live rows gather in the low chunks, high chunks run empty, and their memory goes back to the operating system.
// Invariants: a chunk has memory if and only if one of its rows is live; a touched row is live; a chunk is in open_ if
// and only if it has a free row. What is live determines what comes next; there is no other history. Not thread-safe.
class Arena {
 public:
  explicit Arena(size_t floats_per_row)
      : floats_(floats_per_row), stride_((floats_per_row + 3) / 4 * 4), shift_(chunk_shift(stride_)) {}

  size_t size() const { return size_; }
  size_t touched_count() const { return touched_; }
  uint32_t rows_per_chunk() const { return uint32_t{1} << shift_; }
  // Rows at and above this were never given out.
  uint64_t limit() const { return static_cast<uint64_t>(chunks_.size()) << shift_; }

  size_t bytes() const {
    size_t chunks_with_memory = spare_ ? 1 : 0;
    for (const Chunk& chunk : chunks_) chunks_with_memory += chunk.live > 0;
    return chunks_with_memory * chunk_bytes() + chunks_.size() * (sizeof(Chunk) + rows_per_chunk() / 4);
  }

  // The floats are not initialised.
  uint32_t allocate(uint64_t key) {
    if (open_.empty()) add_chunk();
    const uint32_t number = *open_.begin();
    Chunk& chunk = chunks_[number];
    if (chunk.live == 0) give_memory(chunk);
    const uint32_t within = chunk.lowest_free();
    occupy(number, within);
    const uint32_t row = number << shift_ | within;
    meta(row) = {key, 0};
    return row;
  }

  void release(uint32_t row) {
    clear_touched(row);
    Chunk& chunk = chunks_[row >> shift_];
    const uint32_t within = row & (rows_per_chunk() - 1);
    chunk.live_bits[within / 64] &= ~(uint64_t{1} << within % 64);
    chunk.first_free_word = std::min(chunk.first_free_word, within / 64);
    if (chunk.live == rows_per_chunk()) open_.insert(row >> shift_);
    --chunk.live;
    --size_;
    if (chunk.live > 0) return;
    // One spare, so that a row that comes and goes does not map and unmap a chunk each time.
    Mapping memory = std::move(chunk.memory);
    if (!spare_) spare_ = std::move(memory);
  }

  bool live(uint32_t row) const {
    if (row >= limit()) return false;
    const uint32_t within = row & (rows_per_chunk() - 1);
    return chunks_[row >> shift_].live_bits[within / 64] >> within % 64 & 1;
  }

  float* floats(uint32_t row) const {
    const Chunk& chunk = chunks_[row >> shift_];
    return reinterpret_cast<float*>(chunk.memory.data()) + size_t{row & (rows_per_chunk() - 1)} * stride_;
  }

  RowMeta& meta(uint32_t row) const {
    char* metas = chunks_[row >> shift_].memory.data() + (stride_ * sizeof(float) << shift_);
    return reinterpret_cast<RowMeta*>(metas)[row & (rows_per_chunk() - 1)];
  }

  void prefetch(uint32_t row) const {
    if (!live(row)) return;
    const char* data = reinterpret_cast<const char*>(floats(row));
    for (size_t at = 0; at < floats_ * sizeof(float); at += 64) __builtin_prefetch(data + at);
  }

  // True if it was not touched yet.
  bool touch(uint32_t row) {
    uint64_t& word = touched_word(row);
    const uint64_t bit = uint64_t{1} << row % 64;
    if (word & bit) return false;
    word |= bit;
    ++touched_;
    return true;
  }

  bool touched(uint32_t row) const { return live(row) && (touched_word(row) >> row % 64 & 1); }

  void clear_touched(uint32_t row) {
    uint64_t& word = touched_word(row);
    const uint64_t bit = uint64_t{1} << row % 64;
    if (word & bit) --touched_;
    word &= ~bit;
  }

  void write(FileWriter& file) const;  // save.cpp
  void read(FileReader& file);

  // Calls visit(row) in rising order.
  template <typename Visit>
  void for_each(Visit visit) const {
    for (size_t number = 0; number < chunks_.size(); ++number) {
      if (chunks_[number].live == 0) continue;
      for (uint32_t within = 0; within < rows_per_chunk(); ++within) {
        const uint32_t row = static_cast<uint32_t>(number << shift_ | within);
        if (live(row)) visit(row);
      }
    }
  }

  void check() const {
    size_t live_rows = 0, touched_rows = 0;
    for (size_t number = 0; number < chunks_.size(); ++number) {
      const Chunk& chunk = chunks_[number];
      uint32_t live_here = 0;
      for (size_t word = 0; word < chunk.live_bits.size(); ++word) {
        live_here += __builtin_popcountll(chunk.live_bits[word]);
        touched_rows += __builtin_popcountll(chunk.touched_bits[word]);
        if (chunk.touched_bits[word] & ~chunk.live_bits[word]) fail(number, "has a touched row that is not live");
        if (word < chunk.first_free_word && ~chunk.live_bits[word]) fail(number, "has a free row below its first");
      }
      if (live_here != chunk.live) fail(number, "counts its live rows wrong");
      if ((live_here > 0) != static_cast<bool>(chunk.memory)) fail(number, "has memory without rows, or rows without");
      if ((live_here < rows_per_chunk()) != (open_.count(number) == 1)) fail(number, "is open or closed by mistake");
      live_rows += live_here;
    }
    if (live_rows != size_) throw std::runtime_error("arena: wrong number of live rows");
    if (touched_rows != touched_) throw std::runtime_error("arena: wrong number of touched rows");
  }

 private:
  struct Chunk {
    Mapping memory;
    std::vector<uint64_t> live_bits;
    std::vector<uint64_t> touched_bits;
    uint32_t live = 0;
    uint32_t first_free_word = 0;  // no row below it is free

    uint32_t lowest_free() {
      while (live_bits[first_free_word] == ~uint64_t{0}) ++first_free_word;
      return first_free_word * 64 + __builtin_ctzll(~live_bits[first_free_word]);
    }
  };

  // The most rows, as a power of two, that fit into 2 MiB: one huge page, and a useful unit to give back.
  static uint32_t chunk_shift(size_t stride) {
    uint32_t shift = 16;
    while (shift > 6 && ((stride * sizeof(float) + sizeof(RowMeta)) << shift) > (size_t{2} << 20)) --shift;
    return shift;
  }

  [[noreturn]] static void fail(size_t chunk, const char* what) {
    throw std::runtime_error("arena: chunk " + std::to_string(chunk) + " " + what);
  }

  size_t chunk_bytes() const { return (stride_ * sizeof(float) + sizeof(RowMeta)) << shift_; }

  uint64_t& touched_word(uint32_t row) { return chunks_[row >> shift_].touched_bits[touched_index(row)]; }
  uint64_t touched_word(uint32_t row) const { return chunks_[row >> shift_].touched_bits[touched_index(row)]; }
  size_t touched_index(uint32_t row) const { return (row & (rows_per_chunk() - 1)) / 64; }

  void add_chunk() {
    if (limit() >= kMaxRows) throw std::length_error("a table holds at most 2^31 rows");
    Chunk chunk;
    chunk.live_bits.resize(rows_per_chunk() / 64);
    chunk.touched_bits.resize(rows_per_chunk() / 64);
    chunks_.push_back(std::move(chunk));
    open_.insert(static_cast<uint32_t>(chunks_.size() - 1));
  }

  // Makes this very row live; it must be free.
  void restore(uint32_t row) {
    while (row >= limit()) add_chunk();
    Chunk& chunk = chunks_[row >> shift_];
    if (chunk.live == 0) give_memory(chunk);
    occupy(row >> shift_, row & (rows_per_chunk() - 1));
  }

  void give_memory(Chunk& chunk) {
    chunk.memory = spare_ ? std::move(spare_) : Mapping(chunk_bytes(), chunks_.size() > 1);
  }

  void occupy(uint32_t number, uint32_t within) {
    Chunk& chunk = chunks_[number];
    chunk.live_bits[within / 64] |= uint64_t{1} << within % 64;
    ++chunk.live;
    ++size_;
    if (chunk.live == rows_per_chunk()) open_.erase(number);
  }

  size_t floats_;
  size_t stride_;   // floats, a multiple of 16 bytes
  uint32_t shift_;  // log2 of the rows of a chunk
  std::vector<Chunk> chunks_;
  std::set<uint32_t> open_;
  Mapping spare_;
  size_t size_ = 0;
  size_t touched_ = 0;
};

}  // namespace monobeam
