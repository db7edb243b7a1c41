#include "table.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>

#include "shown.h"

namespace monobeam {
namespace {

const TableOptions& validated(const TableOptions& options) {
  constexpr uint32_t kMaxDim = 8192;
  if (options.dim > kMaxDim) {
    throw std::invalid_argument("dim " + std::to_string(options.dim) + " must be at most " + std::to_string(kMaxDim));
  }
  if (!std::isfinite(options.init_scale) || options.init_scale < 0) {
    throw std::invalid_argument("init_scale " + shown(options.init_scale) + " must be finite and >= 0");
  }
  return options;
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
      embedding_bytes_(embedding_bytes(options.format, options.dim)),
      first_state_(state_floats_),
      policies_(options.seed),
      budget_(options.memory_limit, options.room),
      index_(budget_),
      arena_(embedding_bytes_ + state_floats_ * sizeof(float), budget_),
      slice_(std::clamp(kSliceBytes / std::max<size_t>(arena_.stride(), 1), kStep, kSlice)),
      new_rows_(std::make_unique<NewRow[]>(kSlice)) {
  optimizer_->init(first_state_.data(), options.dim);
  new_values_.resize(plain() ? 0 : options.dim);
}

void Table::set_policy(uint32_t slot, const SlotPolicy& policy) {
  const auto turn = lock_.turn();
  const auto section = lock_.exclusive();
  policies_.set(slot, policy);
}

void Table::reserve(uint64_t rows) {
  if (rows > arena_.capacity()) {
    throw TableFull("it holds at most " + std::to_string(arena_.capacity()) + " rows, not " + std::to_string(rows));
  }
  const auto turn = lock_.turn();
  budget_.expect(rows * (arena_.stride() + sizeof(uint16_t)) + rows / 3 * sizeof(Bucket));
  index_.populate(rows);
  arena_.populate(rows);
}

// --- reading rows --------------------------------------------------------------------------------------------------

void Table::check_handle(uint32_t handle) const {
  if (handle >= row_limit_ && handle != kNone) {
    throw std::invalid_argument("handle " + std::to_string(handle) + " was never given out");
  }
}

void Table::check_handles(Span<const uint32_t> handles) const {
  for (const uint32_t handle : handles) check_handle(handle);
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

void Table::decode_row(uint32_t handle, float* out) const {
  if (handle == kNone) {
    std::fill_n(out, dim(), 0.0f);
  } else {
    decode(options_.format, arena_.row(handle), dim(), out);
  }
}

void Table::sum_rows(Span<const uint32_t> handles, float* scratch, float* __restrict out) const {
  bool first = true;
  for (const uint32_t handle : handles) {
    if (handle == kNone) continue;
    if (!plain()) decode_row(handle, scratch);
    const float* __restrict row = plain() ? reinterpret_cast<const float*>(arena_.row(handle)) : scratch;
    if (first) {
      for (size_t i = 0; i < dim(); ++i) out[i] = row[i];
    } else {
      for (size_t i = 0; i < dim(); ++i) out[i] += row[i];
    }
    first = false;
  }
  if (first) std::fill_n(out, dim(), 0.0f);
}

void Table::find(Span<const uint64_t> keys, uint32_t* handles) const {
  for (size_t first = 0; first < keys.size; first += kSlice) {
    const auto section = lock_.shared();
    find_rows(index_, {keys.data + first, std::min(kSlice, keys.size - first)}, nullptr, handles + first);
  }
}

void Table::gather(Span<const uint32_t> handles, float* out) const {
  for (size_t first = 0; first < handles.size; first += slice_) {
    const Span<const uint32_t> some = {handles.data + first, std::min(slice_, handles.size - first)};
    const auto section = lock_.shared();
    check_handles(some);
    if (plain()) {
      gather_rows(some, access(), out + first * dim());
    } else {
      for (const uint32_t handle : some) arena_.prefetch(handle == kNone ? 0 : handle);
      for (size_t i = 0; i < some.size; ++i) decode_row(some[i], out + (first + i) * dim());
    }
  }
}

void Table::gather_pooled(Span<const uint32_t> handles, Span<const int64_t> offsets, float* out) const {
  check_offsets(offsets, handles.size);
  std::vector<float> scratch(dim());
  for_each_run(offsets, slice_, [&](size_t first, size_t end) {
    const size_t start = offsets[first], size = offsets[end] - offsets[first];
    const auto section = lock_.shared();
    check_handles({handles.data + start, size});
    for (size_t i = start; i < start + size; ++i) arena_.prefetch(handles[i] == kNone ? 0 : handles[i]);
    for (size_t bag = first; bag < end; ++bag) {
      const size_t length = offsets[bag + 1] - offsets[bag];
      sum_rows({handles.data + offsets[bag], length}, scratch.data(), out + bag * dim());
    }
  });
}

void Table::lookup(Span<const uint64_t> keys, float* rows, bool* found) const {
  uint32_t handles[kSlice];
  for (size_t first = 0; first < keys.size; first += slice_) {
    const Span<const uint64_t> some = {keys.data + first, std::min(slice_, keys.size - first)};
    const RowAccess rows_here = access();
    const auto section = lock_.shared();
    if (plain()) {
      copy_rows(index_, some, rows_here, handles, rows + first * dim());
    } else {
      find_rows(index_, some, &rows_here, handles);
      for (size_t i = 0; i < some.size; ++i) decode_row(handles[i], rows + (first + i) * dim());
    }
    for (size_t i = 0; i < some.size; ++i) found[first + i] = handles[i] != kNone;
  }
}

void Table::lookup_pooled(Span<const uint64_t> keys, Span<const int64_t> offsets, float* out) const {
  check_offsets(offsets, keys.size);
  std::vector<float> scratch(dim());
  std::vector<uint32_t> handles;
  for_each_run(offsets, slice_, [&](size_t first, size_t end) {
    const size_t start = offsets[first];
    handles.resize(offsets[end] - offsets[first]);
    const RowAccess rows_here = access();
    const auto section = lock_.shared();
    find_rows(index_, {keys.data + start, handles.size()}, &rows_here, handles.data());
    for (size_t bag = first; bag < end; ++bag) {
      const size_t length = offsets[bag + 1] - offsets[bag];
      sum_rows({handles.data() + (offsets[bag] - start), length}, scratch.data(), out + bag * dim());
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
  return index_.bytes() + arena_.bytes() + waiting_.bytes() + removed_count_ * sizeof(uint64_t);
}

uint64_t Table::update_count_sum() const {
  const auto section = lock_.shared();
  return update_sum_;
}

TableStats Table::stats() const {
  const auto section = lock_.shared();
  return {index_.count(), pending_, index_.overflow().size(), forgotten_, most_saved_, index_.work()};
}

// Pending keys among those that wait.
size_t Table::count_waiting() const {
  std::vector<uint64_t> keys;
  const auto pending = [&](uint64_t key) { return is_pending(index_.get(key).row); };
  waiting_.for_each_part([&](const uint64_t* some, size_t count) {
    std::copy_if(some, some + count, std::back_inserter(keys), pending);
  });
  std::sort(keys.begin(), keys.end());
  return std::unique(keys.begin(), keys.end()) - keys.begin();
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
    if (field >= row_limit_) throw std::runtime_error("table: a row above the limit of handles");
    if (!arena_.live(field)) throw std::runtime_error("table: key " + std::to_string(key) + " has a row that is free");
    if (taken[field]) throw std::runtime_error("table: key " + std::to_string(key) + " has the row of another key");
    taken[field] = true;
    updates += arena_.updates(field);
  });
  if (budget_.used() != index_.cost() + arena_.cost()) throw std::runtime_error("table: wrong sum of its memory");
  if (rows != arena_.size()) throw std::runtime_error("table: there are rows without a key");
  if (pending != pending_) throw std::runtime_error("table: wrong number of pending keys");
  if (waiting_.size() > options_.pending_limit) throw std::runtime_error("table: more keys wait than may");
  if (pending != count_waiting()) throw std::runtime_error("table: a pending key is not among those that wait");
  if (updates != update_sum_) throw std::runtime_error("table: wrong sum of update counts");
}

}  // namespace monobeam
