// What takes rows away: erasing, expiry, clearing.
#include <algorithm>

#include "table.h"

namespace monobeam {

// True if the key had a row.
bool Table::remove(uint64_t key) {
  const uint32_t field = index_.get(key).row;
  if (field == kEmpty) return false;
  if (!is_row(field)) {
    drop_pending(key);
    return false;
  }
  const uint64_t updates = arena_.updates(field);
  removed_.push_back(key);
  try {
    arena_.release(field);
  } catch (const std::bad_alloc&) {
    removed_.pop_back();  // nothing has happened
    throw;
  }
  removed_count_ = removed_.size();
  update_sum_ -= updates;
  index_.erase(key);
  return true;
}

size_t Table::erase(Span<const uint64_t> keys) {
  const auto turn = lock_.turn();
  size_t erased = 0;
  for (size_t first = 0; first < keys.size; first += slice_) {
    const size_t end = std::min(first + slice_, keys.size);
    const auto section = lock_.exclusive();
    for (size_t i = first; i < end; ++i) erased += remove(keys[i]);
  }
  return erased;
}

std::vector<uint64_t> Table::expire(uint32_t now, uint64_t budget) {
  const auto turn = lock_.turn();
  std::vector<uint64_t> gone;
  if (policies_.none()) return gone;
  const size_t buckets = slice_ / kSlots;
  for (uint64_t left = std::min<uint64_t>(budget, index_.count()); left > 0;) {
    const auto section = lock_.exclusive();
    for (size_t looked = 0; looked < buckets && left > 0; ++looked, --left) {
      if (expire_hand_ == 0) expire_overflowing(now, gone);
      expire_bucket(expire_hand_, now, gone);
      expire_hand_ = expire_hand_ + 1 < index_.count() ? expire_hand_ + 1 : 0;
    }
  }
  std::sort(gone.begin(), gone.end());
  return gone;
}

size_t Table::expire_keys(Span<const uint64_t> keys, uint32_t now) {
  const auto turn = lock_.turn();
  if (policies_.none() || index_.size() == 0) return 0;
  size_t expired = 0;
  uint64_t mortal[kSlice];
  uint32_t handles[kSlice];
  std::vector<uint64_t> gone;
  for (size_t first = 0; first < keys.size; first += slice_) {
    const uint64_t* some = keys.data + first;
    const uint64_t* end = std::copy_if(some, some + std::min(slice_, keys.size - first), mortal,
                                       [&](uint64_t key) { return policies_.forgets(key); });
    const Span<const uint64_t> these = {mortal, static_cast<size_t>(end - mortal)};
    find_rows(index_, these, nullptr, handles);  // so that their buckets are near
    gone.clear();
    for (const uint64_t key : these) {
      const Entry entry = index_.get(key);
      if (entry.row != kEmpty && due(key, entry.row, entry.seen, now)) gone.push_back(key);
    }
    if (gone.empty()) continue;
    const auto section = lock_.exclusive();
    for (const uint64_t key : gone) expired += remove(key);
  }
  return expired;
}

bool Table::due(uint64_t key, uint32_t field, uint32_t seen, uint32_t now) const {
  return is_row(field) ? policies_.expired(key, seen, now) : policies_.lapsed(key, seen, now);
}

void Table::expire_bucket(uint32_t bucket, uint32_t now, std::vector<uint64_t>& gone) {
  const Bucket& entries = index_.at(bucket);
  for (int slot = 0; slot < kSlots; ++slot) {
    const uint64_t key = entries.key[slot];
    if (entries.row[slot] == kEmpty || !due(key, entries.row[slot], entries.seen[slot], now)) continue;
    if (remove(key)) gone.push_back(key);
  }
}

void Table::expire_overflowing(uint32_t now, std::vector<uint64_t>& gone) {
  std::vector<uint64_t> keys;
  index_.for_each_overflowing([&](uint64_t key, uint32_t field, uint32_t seen) {
    if (due(key, field, seen, now)) keys.push_back(key);
  });
  for (const uint64_t key : keys) {
    if (remove(key)) gone.push_back(key);
  }
}

void Table::clear() {
  const auto alone = no_save();
  std::deque<uint64_t> forgotten;  // what is in the end goes when nobody waits any more
  const auto turn = lock_.turn();
  const auto section = lock_.exclusive();
  index_.reset();
  arena_.reset();
  pending_ = update_sum_ = forgotten_ = 0;
  waiting_ = {};
  expire_hand_ = 0;
  removed_.swap(forgotten);
  removed_count_ = 0;
}

}  // namespace monobeam
