// Gradients of bags, summed by row.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "buckets.h"
#include "span.h"

namespace monobeam {

// The distinct rows of a batch in order of first occurrence, each with the sum of its gradients in order of occurrence
// (the first one copied, then added) and the number of its occurrences. A pure function of the batch. Reading it again
// and again reuses its memory, which is why there is one per thread.
class RowGradients {
 public:
  // handles: N of them, kEmpty where there is no row; bag m is handles[offsets[m]..offsets[m+1]);
  // gradients: one of `dim` floats per bag, read until the next call.
  void read(Span<const uint32_t> handles, Span<const int64_t> offsets, const float* gradients, size_t dim) {
    dim_ = dim;
    size_t capacity = 64;
    while (capacity < 2 * handles.size) capacity *= 2;
    places_.assign(capacity, kNothing);
    shift_ = 64 - __builtin_ctzll(capacity);
    rows_.clear();
    if (sums_.size() < handles.size / 2 * dim) sums_.resize(handles.size / 2 * dim);  // every sum has two occurrences
    next_sum_ = sums_.data();
    for (size_t bag = 0; bag + 1 < offsets.size; ++bag) {
      for (int64_t at = offsets[bag]; at < offsets[bag + 1]; ++at) {
        if (handles[at] != kEmpty) add(handles[at], gradients + bag * dim);
      }
    }
  }

  struct Row {
    uint32_t row, occurrences;
    const float* gradient;
  };

  size_t size() const { return rows_.size(); }
  const Row& operator[](size_t i) const { return rows_[i]; }

 private:
  static constexpr uint64_t kNothing = ~uint64_t{0};

  void add(uint32_t row, const float* gradient) {
    uint64_t& place = find(row);
    if (place == kNothing) {
      place = uint64_t{row} << 32 | rows_.size();
      rows_.push_back({row, 1, gradient});
      return;
    }
    Row& known = rows_[static_cast<uint32_t>(place)];
    float* sum = const_cast<float*>(known.gradient);
    if (known.occurrences == 1) {
      sum = next_sum_;
      next_sum_ += dim_;
      for (size_t i = 0; i < dim_; ++i) sum[i] = known.gradient[i] + gradient[i];
      known.gradient = sum;
    } else {
      for (size_t i = 0; i < dim_; ++i) sum[i] += gradient[i];
    }
    ++known.occurrences;
  }

  // Where the row and its number stand, by linear probing.
  uint64_t& find(uint32_t row) {
    const size_t last = places_.size() - 1;
    size_t at = row * kGolden >> shift_;
    while (places_[at] != kNothing && places_[at] >> 32 != row) at = (at + 1) & last;
    return places_[at];
  }

  size_t dim_ = 0;
  int shift_ = 0;
  std::vector<uint64_t> places_;  // the row in the high half, its number in rows_ in the low one
  std::vector<Row> rows_;
  std::vector<float> sums_;
  float* next_sum_ = nullptr;
};

}  // namespace monobeam
