// What changes rows that are there: updates, import; and what was changed.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "shown.h"
#include "table.h"

namespace monobeam {
namespace {

void sort_unique(std::vector<uint64_t>& keys) {
  std::sort(keys.begin(), keys.end());
  keys.erase(std::unique(keys.begin(), keys.end()), keys.end());
}

// Of the draws that round one step of a row: of what is restored with the row, and of the step itself, so that neither
// a restart nor the place of a row changes them, and rows do not round alike.
uint64_t rounding_stream(uint64_t seed, uint64_t updates, const float* values, size_t dim) {
  uint64_t some = 0;
  std::memcpy(&some, values, std::min(sizeof(some), dim * sizeof(float)));
  return mix(mix(seed + updates * kGolden) ^ some);
}

constexpr size_t kRowsAhead = 24;

MONOBEAM_INLINE void prefetch_updates(const Arena& arena, const RowGradients& batch, size_t first, size_t end) {
  for (size_t i = first; i < std::min(end, batch.size()); ++i) {
    arena.prefetch_note(batch[i].row);
    arena.prefetch(batch[i].row);
  }
}

}  // namespace

// --- updates -------------------------------------------------------------------------------------------------------

void Table::apply_pooled(Span<const uint32_t> handles, Span<const int64_t> offsets, const float* gradients,
                         float learning_rate) {
  if (offsets.data != nullptr) check_offsets(offsets, handles.size);
  if (options_.format == RowFormat::kInt8) {
    throw std::invalid_argument("rows in int8 are for serving and cannot learn; train in fp32, fp16 or bf16");
  }
  const bool divides = optimizer_->divides_by_rate();
  if (!std::isfinite(learning_rate) || learning_rate < 0 || (divides && !std::isfinite(1 / learning_rate))) {
    throw std::invalid_argument("learning_rate " + shown(learning_rate) + " must be finite and " +
                                (divides ? "> 0, and so must be 1 / it" : ">= 0"));
  }
  if (handles.size >= kMaxRows) {
    throw std::invalid_argument(std::to_string(handles.size) + " handles are too many for one batch, which may have " +
                                std::to_string(kMaxRows - 1));
  }
  thread_local RowGradients own;
  thread_local std::vector<float> own_space;
  RowGradients& batch = own;
  batch.read(handles, offsets, gradients, dim());
  own_space.resize(kStep * ((plain() ? 0 : dim()) + optimizer_->scratch_floats(dim())));
  float* const space = own_space.data();
  const auto turn = lock_.turn();
  check_rows(batch);
  prefetch_updates(arena_, batch, 0, kRowsAhead);
  for (size_t first = 0; first < batch.size(); first += slice_) {
    const size_t end = std::min(first + slice_, batch.size());
    const auto section = lock_.exclusive();
    for (size_t step = first; step < end; step += kStep) {
      prefetch_updates(arena_, batch, step + kRowsAhead, step + kRowsAhead + kStep);
      update(batch, step, std::min(step + kStep, end), learning_rate, space);
    }
  }
}

// Handles as they were read: the caller's array may have changed since.
void Table::check_rows(const RowGradients& batch) const {
  uint32_t most = 0;
  for (size_t i = 0; i < batch.size(); ++i) most = std::max(most, batch[i].row);
  if (batch.size() > 0) check_handle(most);
}

void Table::update(const RowGradients& batch, size_t first, size_t end, float learning_rate, float* space) {
  float *weights[kStep], *states[kStep];
  const float* gradients[kStep];
  uint32_t rows[kStep];
  float* const decoded = space;
  float* const scratch = space + (plain() ? 0 : kStep * dim());
  size_t count = 0;
  for (size_t i = first; i < end; ++i) arena_.prepare_update(batch[i].row, batch[i].occurrences);
  for (size_t i = first; i < end; ++i) {
    const uint32_t row = batch[i].row;
    if (!arena_.update(row, batch[i].occurrences)) continue;
    update_sum_ += batch[i].occurrences;
    weights[count] = plain() ? reinterpret_cast<float*>(arena_.row(row)) : decoded + count * dim();
    if (!plain()) decode_row(row, weights[count]);
    states[count] = state_of(row);
    rows[count] = row;
    gradients[count++] = batch[i].gradient;
  }
  optimizer_->steps({weights, states, gradients, count, dim(), learning_rate, scratch});
  if (plain()) return;
  for (size_t i = 0; i < count; ++i) {
    const uint64_t stream = rounding_stream(options_.seed, arena_.updates(rows[i]), weights[i], dim());
    encode_stochastic(options_.format, weights[i], dim(), stream, arena_.row(rows[i]));
  }
}

// --- what was touched ----------------------------------------------------------------------------------------------

// Rows do not know their keys. Nearly all rows that are updated were sighted since clear_touched(), so that their
// buckets are marked; when one was not, all of the index is looked at.
std::vector<uint64_t> Table::touched() const {
  const auto turn = lock_.turn();
  std::vector<uint64_t> keys;
  keys.reserve(arena_.touched_rows());
  const auto add = [&](uint64_t key, uint32_t field, uint32_t) {
    if (is_row(field) && arena_.touched(field)) keys.push_back(key);
  };
  index_.for_each_marked(add);
  if (keys.size() < arena_.touched_rows()) {
    keys.clear();
    index_.for_each(add);
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

// --- export and import ---------------------------------------------------------------------------------------------

void Table::export_rows(Span<const uint64_t> keys, uint8_t* rows) const {
  const auto turn = lock_.turn();
  const size_t state_bytes = state_floats_ * sizeof(float);
  const RowAccess rows_here = access();
  std::vector<float> values(dim() + 1);  // so that it has an address
  uint32_t handles[kSlice];
  for (size_t first = 0; first < keys.size; first += kSlice) {
    const Span<const uint64_t> some = {keys.data + first, std::min(kSlice, keys.size - first)};
    find_rows(index_, some, &rows_here, handles);
    for (size_t i = 0; i < some.size; ++i) {
      if (handles[i] != kNone) arena_.prefetch_note(handles[i]);
    }
    for (const uint64_t key : some) {
      const Entry entry = index_.get(key);
      if (!is_row(entry.row)) throw std::invalid_argument("key " + std::to_string(key) + " has no row to export");
      const uint32_t seen_and_zero[2] = {entry.seen, 0};
      const uint64_t updates = arena_.updates(entry.row);
      decode_row(entry.row, values.data());
      std::memcpy(rows, values.data(), dim() * sizeof(float));
      rows += dim() * sizeof(float);
      std::memcpy(rows, state_of(entry.row), state_bytes);
      rows += state_bytes;
      std::memcpy(rows, seen_and_zero, 8);
      std::memcpy(rows + 8, &updates, 8);
      rows += kRowTail;
    }
  }
}

Slot Table::find_or_add_row(uint64_t key) {
  const uint64_t hash = Buckets::hash(key);
  const Buckets::Choice choice = index_.choose_by(hash);
  index_.keep(choice);
  Slot slot = index_.find(key, choice);
  const bool added = !slot;
  if (added) {
    slot = index_.insert(key, hash, kPending, 0);
    ++pending_;
  }
  if (!is_row(*slot.row)) {
    give_row(key, slot, added);
    fill_new_rows();
  }
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
  std::vector<float> values(dim() + 1);  // so that it has an address
  for (size_t first = 0; first < keys.size; first += slice_) {
    const size_t end = std::min(first + slice_, keys.size);
    const auto section = lock_.exclusive();
    for (size_t i = first; i < end; ++i) {
      const uint8_t* from = rows + i * row_bytes();
      const Slot slot = find_or_add_row(keys[i]);
      const uint32_t row = *slot.row;
      uint64_t updates;
      std::memcpy(&updates, from + float_bytes + 8, 8);
      const uint64_t before = arena_.updates(row);
      arena_.keep(row);
      arena_.set_updates(row, updates);
      update_sum_ += updates - before;
      std::memcpy(slot.seen, from + float_bytes, 4);
      std::memcpy(values.data(), from, dim() * sizeof(float));
      encode_nearest(options_.format, values.data(), dim(), arena_.row(row));
      std::memcpy(state_of(row), from + dim() * sizeof(float), state_floats_ * sizeof(float));
    }
  }
}

void Table::import_values(Span<const uint64_t> keys, const float* values) {
  const auto turn = lock_.turn();
  for (size_t first = 0; first < keys.size; first += slice_) {
    const size_t end = std::min(first + slice_, keys.size);
    const auto section = lock_.exclusive();
    for (size_t i = first; i < end; ++i) {
      const uint32_t row = *find_or_add_row(keys[i]).row;
      arena_.keep(row);
      encode_nearest(options_.format, values + i * dim(), dim(), arena_.row(row));
      std::copy(first_state_.begin(), first_state_.end(), state_of(row));
    }
  }
}

}  // namespace monobeam
