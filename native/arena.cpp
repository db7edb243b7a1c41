#include "arena.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace monobeam {
namespace {

// The most rows, as a power of two, that fit into 2 MiB: one huge page, and a useful unit to give back.
uint32_t chunk_shift(size_t stride) {
  uint32_t shift = 16;
  while (shift > 6 && (stride << shift) > kHugePage) --shift;
  return shift;
}

[[noreturn]] void fail_chunk(size_t chunk, const char* what) {
  throw std::runtime_error("arena: chunk " + std::to_string(chunk) + " " + what);
}

}  // namespace

Arena::Arena(size_t bytes_per_row, Budget& budget)
    : budget_(budget),
      bytes_per_row_(bytes_per_row),
      stride_((bytes_per_row + 15) / 16 * 16),
      shift_(chunk_shift(stride_)),
      memory_(Reservation::at_most(std::min(kMaxRows * stride_, kMostReserved) + kHugePage)),
      data_(reinterpret_cast<uint8_t*>(memory_.data())),
      capacity_(stride_ == 0 ? kMaxRows : std::min<uint64_t>(kMaxRows, memory_.bytes() / chunk_bytes() << shift_)),
      notes_memory_(Reservation::at_most(std::max(capacity_ * sizeof(uint16_t), kHugePage))),
      notes_(reinterpret_cast<uint16_t*>(notes_memory_.data())) {
  capacity_ = std::min<uint64_t>(capacity_, notes_memory_.bytes() / sizeof(uint16_t) >> shift_ << shift_);
}

size_t Arena::cost() const {
  size_t used = 0;
  for (const Chunk& chunk : chunks_) used += chunk.live > 0;
  return used * chunk_bytes() + chunks_.size() * notes_cost();
}

void Arena::add_chunk() {
  if (limit() + rows_per_chunk() > capacity_) {
    throw TableFull("it holds at most " + std::to_string(capacity_) + " rows");
  }
  const size_t number = chunks_.size();
  if (number == chunks_.capacity()) chunks_.reserve(2 * number + 8);  // what can fail comes first
  const auto opened = open_.insert(static_cast<uint32_t>(number)).first;
  try {
    budget_.take(notes_cost());
  } catch (...) {  // TableFull, or no memory for its words
    open_.erase(opened);
    throw;
  }
  chunks_.push_back({});
  if (number > 0 && stride_ > 0) memory_.want_huge_pages(number * chunk_bytes(), chunk_bytes());
  const size_t notes = limit() * sizeof(uint16_t);
  if (notes % kHugePage == 0) notes_memory_.want_huge_pages(notes, kHugePage);
}

void Arena::populate(uint64_t rows) {
  const uint64_t wanted = std::min(rows, capacity_);
  if (wanted <= limit()) return;
  memory_.populate(limit() * stride_, (wanted - limit()) * stride_);
  notes_memory_.populate(limit() * sizeof(uint16_t), (wanted - limit()) * sizeof(uint16_t));
}

void Arena::release(uint32_t row) {
  const uint32_t number = row >> shift_;
  Chunk& chunk = chunks_[number];
  if (chunk.live == rows_per_chunk()) open_.insert(number);  // what can fail comes first
  keep(row);
  set_updates(row, 0);
  touched_ -= touched(row);
  notes_[row] = 0;
  std::memset(this->row(row), 0, bytes_per_row_);
  chunk.first_free = std::min(chunk.first_free, row & (rows_per_chunk() - 1));
  --chunk.live;
  --size_;
  if (chunk.live > 0) return;
  memory_.give_back(number * chunk_bytes(), chunk_bytes());
  budget_.give(chunk_bytes());
}

void Arena::set_updates(uint32_t row, uint64_t updates) {
  if (updates > kCount) {
    carries_[row] = updates & ~uint64_t{kCount};
  } else if (!carries_.empty()) {
    carries_.erase(row);
  }
  notes_[row] = static_cast<uint16_t>((notes_[row] & ~kCount) | (updates & kCount));
}

void Arena::clear_touched(Bits* touched) {
  if (touched != nullptr) {
    for_each([&](uint32_t row) {
      if (this->touched(row)) touched->set(row);
    });
    touched_before_ = touched;
  }
  if (touched_ == 0) return;  // as always in a table that only serves
  for (size_t row = 0, end = limit(); row < end; ++row) notes_[row] &= static_cast<uint16_t>(~kTouched);
  touched_ = 0;
}

void Arena::reset() {
  budget_.give(cost());
  memory_.give_back(0, chunks_.size() * chunk_bytes());
  notes_memory_.give_back(0, limit() * sizeof(uint16_t));
  carries_.clear();
  chunks_.clear();
  open_.clear();
  size_ = touched_ = 0;
}

bool Arena::dead_rows_are_zeros(size_t chunk) const {
  for (uint32_t at = 0; at < rows_per_chunk(); ++at) {
    const uint32_t number = static_cast<uint32_t>(chunk << shift_) + at;
    if (live(number)) continue;
    const uint8_t* bytes = row(number);
    if (std::any_of(bytes, bytes + bytes_per_row_, [](uint8_t byte) { return byte != 0; })) return false;
  }
  return true;
}

void Arena::check() const {
  size_t live_rows = 0;
  uint64_t touched_rows = 0;
  for (size_t number = 0; number < chunks_.size(); ++number) {
    const Chunk& chunk = chunks_[number];
    const uint16_t* notes = notes_ + (number << shift_);
    uint32_t live_here = 0, touched_here = 0, noted_dead = 0, free_below = 0;
    for (uint32_t at = 0; at < rows_per_chunk(); ++at) {
      const bool is_live = (notes[at] & kLive) != 0;
      live_here += is_live;
      touched_here += (notes[at] & kTouched) != 0;
      noted_dead += !is_live && notes[at] != 0;
      free_below += !is_live && at < chunk.first_free;
    }
    if (noted_dead > 0) fail_chunk(number, "has a note on a row that is not live");
    if (chunk.live > 0 && !dead_rows_are_zeros(number)) fail_chunk(number, "has a row that is not live and not zeros");
    if (free_below > 0) fail_chunk(number, "has a free row below its first");
    if (live_here != chunk.live) fail_chunk(number, "counts its live rows wrong");
    if ((live_here < rows_per_chunk()) != (open_.count(static_cast<uint32_t>(number)) == 1)) {
      fail_chunk(number, "is open or closed by mistake");
    }
    live_rows += live_here;
    touched_rows += touched_here;
  }
  if (live_rows != size_) throw std::runtime_error("arena: wrong number of live rows");
  if (touched_rows != touched_) throw std::runtime_error("arena: wrong number of touched rows");
  for (const auto& carry : carries_) {
    if (!live(carry.first)) throw std::runtime_error("arena: a count without a row");
  }
}

}  // namespace monobeam
