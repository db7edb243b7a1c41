#include "gradients.h"

#include "bucket.h"
#include "hash.h"
#include "widths.h"

namespace monobeam {
namespace {

constexpr uint32_t kNothing = ~uint32_t{0};

// What one read() works on.
struct Batch {
  Span<const uint32_t> handles;
  Span<const int64_t> offsets;
  const float* gradients;
  size_t dim;
  uint32_t* places;
  int shift;  // of a hash, to a place
  size_t last_place;
  RowGradients::Row* rows;
  size_t size;
  float* next_sum;
};

// In `sum`, which may be one of the two.
MONOBEAM_INLINE void add(const float* one, const float* other, float* sum, size_t dim) {
#pragma GCC ivdep
  for (size_t i = 0; i < dim; ++i) sum[i] = one[i] + other[i];
}

MONOBEAM_INLINE void meet(Batch& batch, uint32_t row, const float* gradient) {
  if (row == kEmpty) return;
  size_t at = row * kGolden >> batch.shift;
  uint32_t number;
  while ((number = batch.places[at]) != kNothing && batch.rows[number].row != row) at = (at + 1) & batch.last_place;
  if (number == kNothing) {
    batch.places[at] = static_cast<uint32_t>(batch.size);
    batch.rows[batch.size++] = {row, 1, gradient};
    return;
  }
  RowGradients::Row& known = batch.rows[number];
  float* sum = known.occurrences == 1 ? batch.next_sum : const_cast<float*>(known.gradient);
  batch.next_sum += known.occurrences == 1 ? batch.dim : 0;
  add(known.gradient, gradient, sum, batch.dim);
  known.gradient = sum;
  ++known.occurrences;
}

// Returns how many distinct rows there are.
MONOBEAM_WIDTHS size_t meet_all(Batch batch) {
  if (batch.offsets.size == 0) {
    for (size_t at = 0; at < batch.handles.size; ++at) meet(batch, batch.handles[at], batch.gradients + at * batch.dim);
    return batch.size;
  }
  for (size_t bag = 0; bag + 1 < batch.offsets.size; ++bag) {
    const float* gradient = batch.gradients + bag * batch.dim;
    for (int64_t at = batch.offsets[bag]; at < batch.offsets[bag + 1]; ++at) meet(batch, batch.handles[at], gradient);
  }
  return batch.size;
}

}  // namespace

void RowGradients::read(Span<const uint32_t> handles, Span<const int64_t> offsets, const float* gradients,
                        size_t dim) {
  size_t capacity = 64;
  while (capacity < 2 * handles.size) capacity *= 2;
  places_.assign(capacity, kNothing);
  if (rows_.size() < handles.size) rows_.resize(handles.size);
  if (sums_.size() < handles.size / 2 * dim) sums_.resize(handles.size / 2 * dim);  // every sum has two occurrences
  size_ = meet_all({handles, offsets, gradients, dim, places_.data(), 64 - __builtin_ctzll(capacity), capacity - 1,
                    rows_.data(), 0, sums_.data()});
}

}  // namespace monobeam
