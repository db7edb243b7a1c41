#include "table.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace monobeam {
namespace {

const TableOptions& validated(const TableOptions& options) {
  constexpr uint32_t kMaxDim = 8192;
  if (options.dim > kMaxDim) {
    throw std::invalid_argument("dim " + std::to_string(options.dim) + " must be at most " + std::to_string(kMaxDim));
  }
  if (!std::isfinite(options.init_scale) || options.init_scale < 0) {
    throw std::invalid_argument("init_scale " + std::to_string(options.init_scale) + " must be finite and >= 0");
  }
  return options;
}

// A call of memcpy for each row would cost more than the row.
inline void copy_floats(const float* from, size_t count, float* to) {
  for (; count >= 16; count -= 16, from += 16, to += 16) std::memcpy(to, from, 16 * sizeof(float));
  for (; count > 0; --count) *to++ = *from++;
}

// Calls visit(first bag, end bag) for runs of whole bags, each of at most `most` keys unless a single bag is larger.
template <typename Visit>
void for_each_run(Span<const int64_t> offsets, size_t most, Visit visit) {
  const size_t bags = offsets.size - 1;
  for (size_t first = 0, end = 0; first < bags; first = end) {
    end = first + 1;
    while (end < bags && end - first < most && offsets[end + 1] - offsets[first] <= static_cast<int64_t>(most)) ++end;
    visit(first, end);
  }
}

}  // namespace

Table::Table(const TableOptions& options)
    : options_(validated(options)),
      optimizer_(make_optimizer(options.optimizer, options.hyper)),
      state_floats_(optimizer_->state_floats(options.dim)),
      initial_(options.seed, options.init_scale),
      zeros_(options.dim),
      policies_(options.seed),
      arena_(options.dim + state_floats_) {}

void Table::set_policy(uint32_t slot, const SlotPolicy& policy) {
  const auto turn = lock_.turn();
  const auto section = lock_.exclusive();
  policies_.set(slot, policy);
}

// --- finding and inserting -----------------------------------------------------------------------------------------

void Table::find_or_insert(Span<const uint64_t> keys, uint32_t now, uint32_t* handles) {
  const auto turn = lock_.turn();
  for (size_t first = 0; first < keys.size; first += kSlice) {
    const size_t size = std::min(kSlice, keys.size - first);
    const auto section = lock_.exclusive();
    stamp({keys.data + first, size}, now, handles + first);
  }
}

// Keys with a row at once, wave by wave as probe() does it; then the others, one by one and in order.
void Table::stamp(Span<const uint64_t> keys, uint32_t now, uint32_t* handles) {
  Buckets::Choice choices[kSlice];
  uint32_t left[kSlice], rest = 0, unknown = 0;
  for (size_t i = 0; i < keys.size; ++i) {
    choices[i] = index_.choose(keys[i]);
    index_.prefetch(choices[i].first);
  }
  for (size_t i = 0; i < keys.size; ++i) {
    handles[i] = index_.at(choices[i].first).stamp(keys[i], now);
    index_.prefetch(is_row(handles[i]) ? choices[i].first : choices[i].second);
    left[rest] = static_cast<uint32_t>(i);
    rest += !is_row(handles[i]);
  }
  for (size_t k = 0; k < rest; ++k) {
    const uint32_t i = left[k];
    handles[i] = index_.at(choices[i].second).stamp(keys[i], now);
    left[unknown] = i;
    unknown += !is_row(handles[i]);
  }
  for (size_t k = 0; k < unknown; ++k) handles[left[k]] = sight(keys[left[k]], now);
  for (size_t i = 0; i < keys.size; ++i) {
    if (handles[i] == kNone) continue;
    arena_.prefetch(handles[i], dim());
    list(keys[i], handles[i]);
  }
}

void Table::list(uint64_t key, uint32_t row) {
  if (!arena_.list(row)) listed_.push_back({key, row});
}

uint32_t Table::sight(uint64_t key, uint32_t now) {
  Slot slot = index_.find(key);
  const bool added = !slot;
  if (added) {
    slot = index_.insert(key, kPending, now);
    ++pending_;
  }
  *slot.seen = std::max(*slot.seen, now);
  if (is_row(*slot.row)) return *slot.row;
  *slot.row = std::min(*slot.row + 1, kPending | kMaxPending);
  if (policies_.admits(key, *slot.row & ~kPending)) return give_row(key, slot);
  if (added && pending_ > options_.pending_limit) bound_pending(key);
  return kNone;
}

// A pending entry becomes one with a row.
uint32_t Table::give_row(uint64_t key, Slot slot) {
  const uint32_t row = arena_.allocate();
  row_limit_ = std::max(row_limit_, arena_.limit());
  float* floats = arena_.floats(row);
  initial_.fill(key, floats, dim());
  optimizer_->init(floats + dim(), dim());
  *slot.row = row;
  --pending_;
  return row;
}

// One pending key too many: forgets one that was seen long ago, or, when there is none in reach, the newest.
void Table::bound_pending(uint64_t newest) {
  ++forgotten_;
  for (int looked = 0; looked < kVictimSearch; ++looked) {
    victim_hand_ = victim_hand_ + 1 < index_.count() ? victim_hand_ + 1 : 0;
    if (forget_oldest_pending(index_.at(victim_hand_), newest)) return;
  }
  index_.erase(newest);
  --pending_;
}

bool Table::forget_oldest_pending(const Bucket& bucket, uint64_t newest) {
  int oldest = -1;
  for (int slot = 0; slot < kSlots; ++slot) {
    if (!is_pending(bucket.row[slot]) || bucket.key[slot] == newest) continue;
    if (oldest < 0 || bucket.seen[slot] < bucket.seen[oldest]) oldest = slot;
  }
  if (oldest < 0) return false;
  index_.erase(bucket.key[oldest]);
  --pending_;
  return true;
}

void Table::find(Span<const uint64_t> keys, uint32_t* handles) const {
  for (size_t first = 0; first < keys.size; first += kSlice) {
    const size_t size = std::min(kSlice, keys.size - first);
    const auto section = lock_.shared();
    probe<false>({keys.data + first, size}, handles + first);
  }
}

// In waves over a slice, so that the lines that a wave needs were asked for by the one before: the first bucket of each
// key, then the second one of keys that were not there, then the rows.
template <bool kRows>
void Table::probe(Span<const uint64_t> keys, uint32_t* handles) const {
  Buckets::Choice choices[kSlice];
  uint32_t left[kSlice], rest = 0;
  for (size_t i = 0; i < keys.size; ++i) {
    choices[i] = index_.choose(keys[i]);
    index_.prefetch(choices[i].first);
  }
  for (size_t i = 0; i < keys.size; ++i) {
    const uint32_t field = index_.at(choices[i].first).get(keys[i]);
    const void* row = arena_.floats(is_row(field) ? field : 0);
    const void* bucket = &index_.at(choices[i].second);
    __builtin_prefetch(field == kEmpty ? bucket : row);
    handles[i] = field;
    left[rest] = static_cast<uint32_t>(i);
    rest += field == kEmpty;
  }
  for (size_t k = 0; k < rest; ++k) {
    const uint32_t i = left[k];
    uint32_t field = index_.at(choices[i].second).get(keys[i]);
    if (field == kEmpty) field = index_.overflowing(keys[i]);
    if (kRows) __builtin_prefetch(arena_.floats(is_row(field) ? field : 0));
    handles[i] = field;
  }
  for (size_t i = 0; i < keys.size; ++i) handles[i] = is_row(handles[i]) ? handles[i] : kNone;
}

template void Table::probe<false>(Span<const uint64_t>, uint32_t*) const;
template void Table::probe<true>(Span<const uint64_t>, uint32_t*) const;

// --- reading rows --------------------------------------------------------------------------------------------------

void Table::check_handles(Span<const uint32_t> handles) const {
  for (const uint32_t handle : handles) {
    if (handle != kNone && handle >= row_limit_) {
      throw std::invalid_argument("handle " + std::to_string(handle) + " was never given out");
    }
  }
}

void Table::check_offsets(Span<const int64_t> offsets, size_t keys) const {
  if (offsets.size == 0) throw std::invalid_argument("offsets must have at least one element, 0");
  if (offsets[0] != 0) throw std::invalid_argument("offsets[0] must be 0, got " + std::to_string(offsets[0]));
  for (size_t bag = 0; bag + 1 < offsets.size; ++bag) {
    if (offsets[bag] > offsets[bag + 1]) {
      throw std::invalid_argument("offsets must not fall, but offsets[" + std::to_string(bag) +
                                  "] = " + std::to_string(offsets[bag]) + " is followed by " +
                                  std::to_string(offsets[bag + 1]));
    }
  }
  if (offsets[offsets.size - 1] != static_cast<int64_t>(keys)) {
    throw std::invalid_argument("the last offset must be the number of keys, " + std::to_string(keys) + ", got " +
                                std::to_string(offsets[offsets.size - 1]));
  }
}

const float* Table::row_or_zeros(uint32_t handle) const {
  return handle != kNone && arena_.live(handle) ? arena_.floats(handle) : zeros_.data();
}

void Table::sum_rows(Span<const uint32_t> handles, float* out) const {
  bool first = true;
  for (const uint32_t handle : handles) {
    if (handle == kNone || !arena_.live(handle)) continue;
    const float* row = arena_.floats(handle);
    if (first) {
      copy_floats(row, dim(), out);
    } else {
      for (size_t i = 0; i < dim(); ++i) out[i] += row[i];
    }
    first = false;
  }
  if (first) std::fill_n(out, dim(), 0.0f);
}

void Table::gather(Span<const uint32_t> handles, float* out) const {
  for (size_t first = 0; first < handles.size; first += kSlice) {
    const size_t end = std::min(first + kSlice, handles.size);
    const auto section = lock_.shared();
    check_handles({handles.data + first, end - first});
    for (size_t i = first; i < end; ++i) arena_.prefetch(handles[i] == kNone ? 0 : handles[i], dim());
    for (size_t i = first; i < end; ++i) copy_floats(row_or_zeros(handles[i]), dim(), out + i * dim());
  }
}

void Table::gather_pooled(Span<const uint32_t> handles, Span<const int64_t> offsets, float* out) const {
  check_offsets(offsets, handles.size);
  for_each_run(offsets, kSlice, [&](size_t first, size_t end) {
    const size_t start = offsets[first], size = offsets[end] - offsets[first];
    const auto section = lock_.shared();
    check_handles({handles.data + start, size});
    for (size_t i = start; i < start + size; ++i) arena_.prefetch(handles[i] == kNone ? 0 : handles[i], dim());
    for (size_t bag = first; bag < end; ++bag) {
      const size_t length = offsets[bag + 1] - offsets[bag];
      sum_rows({handles.data + offsets[bag], length}, out + bag * dim());
    }
  });
}

void Table::lookup(Span<const uint64_t> keys, float* rows, bool* found) const {
  uint32_t handles[kSlice];
  for (size_t first = 0; first < keys.size; first += kSlice) {
    const size_t size = std::min(kSlice, keys.size - first);
    const auto section = lock_.shared();
    probe<true>({keys.data + first, size}, handles);
    for (size_t i = 0; i < size; ++i) {
      found[first + i] = handles[i] != kNone;
      const float* row = handles[i] != kNone ? arena_.floats(handles[i]) : zeros_.data();
      copy_floats(row, dim(), rows + (first + i) * dim());
    }
  }
}

void Table::lookup_pooled(Span<const uint64_t> keys, Span<const int64_t> offsets, float* out) const {
  check_offsets(offsets, keys.size);
  std::vector<uint32_t> handles;
  for_each_run(offsets, kSlice, [&](size_t first, size_t end) {
    const size_t start = offsets[first];
    handles.resize(offsets[end] - offsets[first]);
    const auto section = lock_.shared();
    for (size_t at = 0; at < handles.size(); at += kSlice) {
      probe<true>({keys.data + start + at, std::min(kSlice, handles.size() - at)}, handles.data() + at);
    }
    for (size_t bag = first; bag < end; ++bag) {
      const size_t length = offsets[bag + 1] - offsets[bag];
      sum_rows({handles.data() + (offsets[bag] - start), length}, out + bag * dim());
    }
  });
}

// --- the whole table -----------------------------------------------------------------------------------------------

std::vector<uint64_t> Table::keys() const {
  const auto turn = lock_.turn();
  std::vector<uint64_t> keys;
  keys.reserve(arena_.size());
  index_.for_each([&](uint64_t key, uint32_t field, uint32_t) {
    if (is_row(field)) keys.push_back(key);
  });
  std::sort(keys.begin(), keys.end());
  return keys;
}

size_t Table::size() const {
  const auto section = lock_.shared();
  return arena_.size();
}

size_t Table::memory_bytes() const {
  const auto section = lock_.shared();
  return index_.bytes() + arena_.bytes() + listed_.capacity() * sizeof(Listed) +
         removed_.capacity() * sizeof(uint64_t);
}

uint64_t Table::update_count_sum() const {
  const auto section = lock_.shared();
  return update_sum_;
}

TableStats Table::stats() const {
  const auto section = lock_.shared();
  return {index_.count(), pending_, index_.overflowing(), forgotten_, index_.work()};
}

void Table::check() const {
  const auto turn = lock_.turn();
  index_.check();
  arena_.check();
  uint64_t rows = 0, pending = 0, updates = 0;
  std::vector<bool> taken(arena_.limit());
  index_.for_each([&](uint64_t key, uint32_t field, uint32_t) {
    if (!is_row(field)) {
      ++pending;
      return;
    }
    ++rows;
    if (!arena_.live(field)) throw std::runtime_error("table: key " + std::to_string(key) + " has a row that is free");
    if (taken[field]) throw std::runtime_error("table: key " + std::to_string(key) + " has the row of another key");
    taken[field] = true;
    updates += arena_.updates(field);
  });
  if (rows != arena_.size()) throw std::runtime_error("table: there are rows without a key");
  if (pending != pending_) throw std::runtime_error("table: wrong number of pending keys");
  if (pending > options_.pending_limit) throw std::runtime_error("table: more pending keys than its limit");
  if (updates != update_sum_) throw std::runtime_error("table: wrong sum of update counts");
  if (row_limit_ < arena_.limit()) throw std::runtime_error("table: rows above the limit of handles");
}

}  // namespace monobeam
