// Finding or inserting: sightings, admission, new rows.
#include <algorithm>

#include "table.h"
#include "widths.h"

namespace monobeam {
namespace {

MONOBEAM_WIDTHS void fill(const InitialRow& initial, uint64_t key, float* values, size_t dim) {
  initial.fill(key, values, dim);
}

}  // namespace

void Table::find_or_insert(Span<const uint64_t> keys, uint32_t now, uint32_t* handles) {
  const auto turn = lock_.turn();
  uint32_t unknown[kSlice];
  for (size_t first = 0; first < keys.size; first += slice()) {
    const Span<const uint64_t> some = {keys.data + first, std::min(slice(), keys.size - first)};
    const auto section = lock_.exclusive();
    if (index_.kept()) {
      for (const uint64_t key : some) index_.keep(index_.choose(key));
    }
    const size_t missing = stamp_rows(index_, some, now, access(), handles + first, unknown);
    if (missing > 0) sight_unknown(some, {unknown, missing}, now, handles + first);
  }
}

void Table::sight_unknown(Span<const uint64_t> keys, Span<const uint32_t> unknown, uint32_t now, uint32_t* handles) {
  try {
    for (const uint32_t i : unknown) handles[i] = sight(keys[i], now);
  } catch (...) {
    fill_new_rows();
    throw;
  }
  fill_new_rows();
}

uint32_t Table::sight(uint64_t key, uint32_t now) {
  const Buckets::Choice choice = index_.choose(key);
  Slot slot = index_.find(key, choice);
  const bool added = !slot;
  if (added) {
    slot = index_.insert(key, kPending, now);
    ++pending_;
  } else if (is_pending(*slot.row) && policies_.lapsed(key, *slot.seen, now)) {
    *slot.row = kPending;
  }
  *slot.seen = std::max(*slot.seen, now);
  if (is_row(*slot.row)) return *slot.row;
  *slot.row = std::min(*slot.row + 1, kPending | kMaxPending);
  if (policies_.admits(key, *slot.row & ~kPending)) {
    if (!added) index_.mark(choice);
    return give_row(key, slot);
  }
  if (added && pending_ > options_.pending_limit) bound_pending(key);
  return kNone;
}

// A pending entry becomes one with a row, which fill_new_rows() fills.
uint32_t Table::give_row(uint64_t key, Slot slot) {
  new_rows_.reserve(kSlice);
  const uint32_t row = arena_.allocate();
  row_limit_ = std::max(row_limit_, arena_.limit());
  *slot.row = row;
  --pending_;
  new_rows_.push_back({key, row});
  return row;
}

void Table::fill_new_rows() {
  std::vector<float> values(plain() ? 0 : dim());
  for (const NewRow& made : new_rows_) {
    uint8_t* row = arena_.row(made.row);
    fill(initial_, made.key, plain() ? reinterpret_cast<float*>(row) : values.data(), dim());
    if (!plain()) encode_nearest(options_.format, values.data(), dim(), row);
    std::copy(first_state_.begin(), first_state_.end(), state_of(made.row));
  }
  new_rows_.clear();
}

// One pending key too many: forgets one that was seen long ago, or, when there is none in reach, the newest.
void Table::bound_pending(uint64_t newest) {
  ++forgotten_;
  for (int looked = 0; looked < kVictimSearch; ++looked) {
    victim_hand_ = victim_hand_ + 1 < index_.count() ? victim_hand_ + 1 : 0;
    if (forget_oldest_pending(index_.at(victim_hand_), newest)) return;
  }
  drop_pending(newest);
}

bool Table::forget_oldest_pending(const Bucket& bucket, uint64_t newest) {
  int oldest = -1;
  for (int slot = 0; slot < kSlots; ++slot) {
    if (!is_pending(bucket.row[slot]) || bucket.key[slot] == newest) continue;
    if (oldest < 0 || bucket.seen[slot] < bucket.seen[oldest]) oldest = slot;
  }
  if (oldest < 0) return false;
  drop_pending(bucket.key[oldest]);
  return true;
}

void Table::drop_pending(uint64_t key) {
  index_.erase(key);
  --pending_;
}

}  // namespace monobeam
