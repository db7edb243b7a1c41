// What changes rows: updates, import, expiry.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "gradients.h"
#include "table.h"

namespace monobeam {
namespace {

void sort_unique(std::vector<uint64_t>& keys) {
  std::sort(keys.begin(), keys.end());
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
}

}  // namespace

// --- updates -------------------------------------------------------------------------------------------------------

void Table::apply_pooled(Span<const uint32_t> handles, Span<const int64_t> offsets, const float* gradients,
                         float learning_rate) {
  check_offsets(offsets, handles.size);
  if (!std::isfinite(learning_rate) || learning_rate < 0 || (learning_rate == 0 && optimizer_->divides_by_rate())) {
    throw std::invalid_argument("learning_rate " + std::to_string(learning_rate) + " must be finite and " +
                                (optimizer_->divides_by_rate() ? "> 0" : ">= 0"));
  }
  const RowGradients batch(handles, offsets, gradients, dim());
  const auto turn = lock_.turn();
  check_handles(handles);
  for (size_t first = 0; first < batch.size(); first += kSlice) {
    const size_t end = std::min(first + kSlice, batch.size());
    const auto section = lock_.exclusive();
    for (size_t i = first; i < end; ++i) arena_.prefetch(batch.row(i));
    for (size_t i = first; i < end; ++i) update(batch.row(i), batch.gradient(i), batch.occurrences(i), learning_rate);
  }
}

void Table::update(uint32_t row, const float* gradient, uint32_t occurrences, float learning_rate) {
  if (!arena_.live(row)) return;
  float* floats = arena_.floats(row);
  optimizer_->step(floats, floats + dim(), gradient, dim(), learning_rate);
  arena_.meta(row).updates += occurrences;
  update_sum_ += occurrences;
  if (arena_.touch(row)) touched_.push_back(row);
}

std::vector<uint64_t> Table::touched() const {
  const auto turn = lock_.turn();
  std::vector<uint64_t> keys;
  for (const uint32_t row : touched_) {
    if (arena_.touched(row)) keys.push_back(arena_.meta(row).key);
  }
  for (const uint64_t key : removed_) {
    if (is_row(index_.get(key).row)) keys.push_back(key);
  }
  sort_unique(keys);
  return keys;
}

std::vector<uint64_t> Table::expired() const {
  const auto turn = lock_.turn();
  std::vector<uint64_t> keys;
  for (const uint64_t key : removed_) {
    if (!is_row(index_.get(key).row)) keys.push_back(key);
  }
  sort_unique(keys);
  return keys;
}

void Table::clear_touched() {
  const auto turn = lock_.turn();
  const auto section = lock_.exclusive();
  for (const uint32_t row : touched_) arena_.clear_touched(row);
  touched_.clear();
  removed_.clear();
}

// --- export and import ---------------------------------------------------------------------------------------------

void Table::export_rows(Span<const uint64_t> keys, uint8_t* rows) const {
  const auto turn = lock_.turn();
  const size_t float_bytes = (dim() + state_floats_) * sizeof(float);
  for (const uint64_t key : keys) {
    const Entry entry = index_.get(key);
    if (!is_row(entry.row)) throw std::invalid_argument("key " + std::to_string(key) + " has no row to export");
    const uint32_t seen_and_zero[2] = {entry.seen, 0};
    std::memcpy(rows, arena_.floats(entry.row), float_bytes);
    std::memcpy(rows + float_bytes, seen_and_zero, 8);
    std::memcpy(rows + float_bytes + 8, &arena_.meta(entry.row).updates, 8);
    rows += row_bytes();
  }
}

Slot Table::find_or_add_row(uint64_t key, uint32_t seen) {
  Slot slot = index_.find(key);
  if (!slot) {
    slot = index_.insert(key, kPending, seen);
    ++pending_;
  }
  if (!is_row(*slot.row)) give_row(key, slot);
  return slot;
}

void Table::import_rows(Span<const uint64_t> keys, const uint8_t* rows) {
  const size_t float_bytes = (dim() + state_floats_) * sizeof(float);
  for (size_t i = 0; i < keys.size; ++i) {
    uint32_t zero;
    std::memcpy(&zero, rows + i * row_bytes() + float_bytes + 4, 4);
    if (zero != 0) {
      throw std::invalid_argument("the row of key " + std::to_string(keys[i]) +
                                  " is not a row of this table: its reserved field is " + std::to_string(zero) +
                                  ", not 0");
    }
  }
  const auto turn = lock_.turn();
  for (size_t first = 0; first < keys.size; first += kSlice) {
    const size_t end = std::min(first + kSlice, keys.size);
    const auto section = lock_.exclusive();
    for (size_t i = first; i < end; ++i) {
      const uint8_t* row = rows + i * row_bytes();
      const Slot slot = find_or_add_row(keys[i], 0);
      RowMeta& meta = arena_.meta(*slot.row);
      update_sum_ -= meta.updates;
      std::memcpy(arena_.floats(*slot.row), row, float_bytes);
      std::memcpy(slot.seen, row + float_bytes, 4);
      std::memcpy(&meta.updates, row + float_bytes + 8, 8);
      update_sum_ += meta.updates;
    }
  }
}

void Table::import_values(Span<const uint64_t> keys, const float* values) {
  const auto turn = lock_.turn();
  for (size_t first = 0; first < keys.size; first += kSlice) {
    const size_t end = std::min(first + kSlice, keys.size);
    const auto section = lock_.exclusive();
    for (size_t i = first; i < end; ++i) {
      float* floats = arena_.floats(*find_or_add_row(keys[i], 0).row);
      std::copy_n(values + i * dim(), dim(), floats);
      std::fill_n(floats + dim(), state_floats_, 0.0f);
    }
  }
}

// --- erasing -------------------------------------------------------------------------------------------------------

// True if the key had a row.
bool Table::remove(uint64_t key) {
  const uint32_t field = index_.get(key).row;
  if (field == kEmpty) return false;
  if (is_row(field)) {
    removed_.push_back(key);
    update_sum_ -= arena_.meta(field).updates;
    arena_.release(field);
  } else {
    --pending_;
  }
  index_.erase(key);
  return is_row(field);
}

size_t Table::erase(Span<const uint64_t> keys) {
  const auto turn = lock_.turn();
  size_t erased = 0;
  for (size_t first = 0; first < keys.size; first += kSlice) {
    const size_t end = std::min(first + kSlice, keys.size);
    const auto section = lock_.exclusive();
    for (size_t i = first; i < end; ++i) erased += remove(keys[i]);
  }
  return erased;
}

std::vector<uint64_t> Table::expire(uint32_t now, uint64_t budget) {
  const auto turn = lock_.turn();
  std::vector<uint64_t> gone;
  if (policies_.none()) return gone;
  for (uint64_t left = std::min<uint64_t>(budget, index_.count()); left > 0;) {
    const auto section = lock_.exclusive();
    for (size_t looked = 0; looked < kSlice && left > 0; ++looked, --left) {
      if (expire_hand_ == 0) expire_overflowing(now, gone);
      expire_bucket(expire_hand_, now, gone);
      expire_hand_ = expire_hand_ + 1 < index_.count() ? expire_hand_ + 1 : 0;
    }
  }
  std::sort(gone.begin(), gone.end());
  return gone;
}

void Table::expire_bucket(uint32_t bucket, uint32_t now, std::vector<uint64_t>& gone) {
  const Bucket& entries = index_.at(bucket);
  for (int slot = 0; slot < kSlots; ++slot) {
    const uint64_t key = entries.key[slot];
    if (entries.row[slot] == kEmpty || !policies_.expired(key, entries.seen[slot], now)) continue;
    if (remove(key)) gone.push_back(key);
  }
}

void Table::expire_overflowing(uint32_t now, std::vector<uint64_t>& gone) {
  std::vector<uint64_t> due;
  index_.for_each_overflowing([&](uint64_t key, uint32_t, uint32_t seen) {
    if (policies_.expired(key, seen, now)) due.push_back(key);
  });
  for (const uint64_t key : due) {
    if (remove(key)) gone.push_back(key);
  }
}

void Table::clear() {
  const auto turn = lock_.turn();
  const auto section = lock_.exclusive();
  index_.reset();
  arena_ = Arena(dim() + state_floats_);
  pending_ = update_sum_ = forgotten_ = 0;
  expire_hand_ = victim_hand_ = 0;
  touched_.clear();
  removed_.clear();
}

}  // namespace monobeam
