// What changes rows: updates, import, expiry.
#include <algorithm>
#include <cmath>
#include <cstring>

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
  thread_local RowGradients batch;
  batch.read(handles, offsets, gradients, dim());
  const auto turn = lock_.turn();
  check_handles(handles);
  for (size_t first = 0; first < batch.size(); first += kSlice) {
    const size_t end = std::min(first + kSlice, batch.size());
    const auto section = lock_.exclusive();
    for (size_t i = first; i < end; ++i) arena_.prefetch_update(batch[i].row);
    update(batch, first, end, learning_rate);
  }
}

void Table::update(const RowGradients& batch, size_t first, size_t end, float learning_rate) {
  float* weights[kSlice];
  float* states[kSlice];
  const float* gradients[kSlice];
  size_t count = 0;
  for (size_t i = first; i < end; ++i) {
    const uint32_t row = batch[i].row;
    if (!arena_.live(row)) continue;
    arena_.add_updates(row, batch[i].occurrences);
    update_sum_ += batch[i].occurrences;
    arena_.touch(row);
    touched_unlisted_ |= !arena_.listed(row);
    weights[count] = arena_.floats(row);
    states[count] = weights[count] + dim();
    gradients[count++] = batch[i].gradient;
  }
  optimizer_->steps({weights, states, gradients, count, dim(), learning_rate});
}

std::vector<uint64_t> Table::touched() const {
  const auto turn = lock_.turn();
  std::vector<uint64_t> keys;
  const auto add = [&](uint64_t key, uint32_t row) {
    if (is_row(row) && arena_.touched(row)) keys.push_back(key);
  };
  if (touched_unlisted_) {
    index_.for_each([&](uint64_t key, uint32_t field, uint32_t) { add(key, field); });
  } else {
    touched_among_listed(keys);
  }
  for (const uint64_t key : removed_) {
    if (is_row(index_.get(key).row)) keys.push_back(key);
  }
  sort_unique(keys);
  return keys;
}

// Of rows that went to another key since, only the other one is.
void Table::touched_among_listed(std::vector<uint64_t>& keys) const {
  uint64_t some[kSlice];
  uint32_t rows[kSlice], handles[kSlice];
  keys.reserve(listed_.size());
  for (size_t next = 0; next < listed_.size();) {
    size_t count = 0;
    for (; count < kSlice && next < listed_.size(); ++next) {
      some[count] = listed_[next].key;
      rows[count] = listed_[next].row;
      count += arena_.touched(listed_[next].row);
    }
    probe<false>({some, count}, handles);
    for (size_t i = 0; i < count; ++i) {
      if (handles[i] == rows[i]) keys.push_back(some[i]);
    }
  }
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
  if (touched_unlisted_) {
    arena_.for_each([&](uint32_t row) { arena_.clear_marks(row); });
  } else {
    for (const Listed& listed : listed_) arena_.clear_marks(listed.row);
  }
  touched_unlisted_ = false;
  listed_ = {};
  removed_ = {};
}

// --- export and import ---------------------------------------------------------------------------------------------

void Table::export_rows(Span<const uint64_t> keys, uint8_t* rows) const {
  const auto turn = lock_.turn();
  const size_t float_bytes = (dim() + state_floats_) * sizeof(float);
  uint32_t handles[kSlice];
  for (size_t first = 0; first < keys.size; first += kSlice) {
    const Span<const uint64_t> slice = {keys.data + first, std::min(kSlice, keys.size - first)};
    probe<true>(slice, handles);
    for (const uint32_t handle : Span<uint32_t>{handles, slice.size}) {
      if (handle != kNone) arena_.prefetch_update(handle);
    }
    for (const uint64_t key : slice) {
      const Entry entry = index_.get(key);
      if (!is_row(entry.row)) throw std::invalid_argument("key " + std::to_string(key) + " has no row to export");
      const uint32_t seen_and_zero[2] = {entry.seen, 0};
      const uint64_t updates = arena_.updates(entry.row);
      std::memcpy(rows, arena_.floats(entry.row), float_bytes);
      std::memcpy(rows + float_bytes, seen_and_zero, 8);
      std::memcpy(rows + float_bytes + 8, &updates, 8);
      rows += row_bytes();
    }
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
      uint64_t updates;
      std::memcpy(&updates, row + float_bytes + 8, 8);
      update_sum_ += updates - arena_.updates(*slot.row);
      arena_.set_updates(*slot.row, updates);
      std::memcpy(arena_.floats(*slot.row), row, float_bytes);
      std::memcpy(slot.seen, row + float_bytes, 4);
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
    update_sum_ -= arena_.updates(field);
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
  touched_unlisted_ = false;
  listed_ = {};
  removed_ = {};
}

}  // namespace monobeam
