// Finding or inserting: sightings, admission, new rows.
#include <algorithm>

#include "table.h"
#include "widths.h"

namespace monobeam {
namespace {

// Initial values of a key as float32, and its first state.
MONOBEAM_WIDTHS void fill(const InitialRow& initial, uint64_t key, float* values, size_t dim,
                          const float* __restrict first_state, float* __restrict state, size_t state_floats) {
  initial.fill(key, values, dim);
  for (size_t i = 0; i < state_floats; ++i) state[i] = first_state[i];
}

}  // namespace

void Table::find_or_insert(Span<const uint64_t> keys, uint32_t now, uint32_t* handles) {
  const auto turn = lock_.turn();
  uint64_t hashes[kSlice];
  uint32_t unknown[kSlice];
  for (size_t first = 0; first < keys.size; first += slice_) {
    const Span<const uint64_t> some = {keys.data + first, std::min(slice_, keys.size - first)};
    const auto section = lock_.exclusive();
    if (index_.kept()) {
      for (const uint64_t key : some) index_.keep(index_.choose(key));
    }
    const size_t missing = stamp_rows(index_, some, now, access(), handles + first, hashes, unknown);
    if (missing > 0) sight_unknown(some, hashes, {unknown, missing}, now, handles + first);
  }
}

void Table::sight_unknown(Span<const uint64_t> keys, const uint64_t* hashes, Span<const uint32_t> unknown, uint32_t now,
                          uint32_t* handles) {
  constexpr size_t kAhead = 8;
  try {
    for (size_t k = 0; k < unknown.size; ++k) {
      if (k + kAhead < unknown.size) index_.prefetch_insert(hashes[unknown[k + kAhead]]);
      const uint32_t i = unknown[k];
      handles[i] = sight(keys[i], hashes[i], now);
    }
  } catch (...) {
    fill_new_rows();
    throw;
  }
  fill_new_rows();
}

uint32_t Table::sight(uint64_t key, uint64_t hash, uint32_t now) {
  const Buckets::Choice choice = index_.choose_by(hash);
  Slot slot = index_.find(key, choice);
  const bool added = !slot;
  if (added) {
    slot = index_.insert(key, hash, kPending, now);
    ++pending_;
  } else if (is_pending(*slot.row) && policies_.lapsed(key, *slot.seen, now)) {
    *slot.row = kPending;
  }
  *slot.seen = std::max(*slot.seen, now);
  if (is_row(*slot.row)) return *slot.row;
  *slot.row = std::min(*slot.row + 1, kPending | kMaxPending);
  if (policies_.admits(key, *slot.row & ~kPending)) {
    if (!added) index_.mark(choice);
    return give_row(key, slot, added);
  }
  if (added) begin_waiting(key);
  return kNone;
}

// A pending entry becomes one with a row, which fill_new_rows() fills. One that was just added goes where there is no
// row for it.
uint32_t Table::give_row(uint64_t key, Slot slot, bool added) {
  uint32_t row;
  try {
    row = arena_.allocate();
  } catch (const std::bad_alloc&) {
    if (added) drop_pending(key);
    throw;
  }
  row_limit_ = std::max(row_limit_, arena_.limit());
  *slot.row = row;
  --pending_;
  NewRow& made = new_rows_[new_count_++];
  made.key = key;
  made.row = row;
  return row;
}

void Table::fill_new_rows() {
  std::vector<float>& values = new_values_;
  for (const NewRow& made : Span<NewRow>{new_rows_.get(), new_count_}) {
    uint8_t* row = arena_.row(made.row);
    fill(initial_, made.key, plain() ? reinterpret_cast<float*>(row) : values.data(), dim(), first_state_.data(),
         state_of(made.row), state_floats_);
    if (!plain()) encode_nearest(options_.format, values.data(), dim(), row);
  }
  new_count_ = 0;
}

// Behind all others. When there are too many, the first one goes: it is forgotten if it still waits. (A key that went
// and came again is there twice, and goes when it is first.)
void Table::begin_waiting(uint64_t key) {
  try {
    waiting_.push(key);
  } catch (const std::bad_alloc&) {
    drop_pending(key);
    throw;
  }
  if (waiting_.size() <= options_.pending_limit) return;
  const uint64_t first = waiting_.oldest();
  waiting_.pop();
  if (waiting_.size() > 0) index_.prefetch(waiting_.oldest());  // whose turn is next
  if (!is_pending(index_.get(first).row)) return;
  drop_pending(first);
  ++forgotten_;
}

void Table::drop_pending(uint64_t key) {
  index_.erase(key);
  --pending_;
}

}  // namespace monobeam
