// Gradients of bags, summed by row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "bucket.h"
#include "hash.h"
#include "span.h"

namespace monobeam {

// The distinct rows of a batch in order of first occurrence, each with the sum of its gradients in order of occurrence
// (the first one copied, then added) and the number of its occurrences. A pure function of the batch. Reading it again
// and again reuses its memory, which is why there is one per thread.
class RowGradients {
 public:
  // handles: N of them, kEmpty where there is no row; bag m is handles[offsets[m]..offsets[m+1]), or the m-th handle
  // alone where there are no offsets; gradients: one of `dim` floats per bag, read until the next call.
  void read(Span<const uint32_t> handles, Span<const int64_t> offsets, const float* gradients, size_t dim) {
    dim_ = dim;
    size_t capacity = 64;
    while (capacity < 2 * handles.size) capacity *= 2;
    places_.assign(capacity, kNothing);
    shift_ = 64 - __builtin_ctzll(capacity);
    if (rows_.size() < handles.size) rows_.resize(handles.size);
    size_ = 0;
    if (sums_.size() < handles.size / 2 * dim) sums_.resize(handles.size / 2 * dim);  // every sum has two occurrences
    next_sum_ = sums_.data();
    if (offsets.size == 0) {
      for (size_t at = 0; at < handles.size; ++at) add(handles[at], gradients + at * dim);
      return;
    }
    for (size_t bag = 0; bag + 1 < offsets.size; ++bag) {
      for (int64_t at = offsets[bag]; at < offsets[bag + 1]; ++at) add(handles[at], gradients + bag * dim);
    }
  }

  struct Row {
    uint32_t row, occurrences;
    const float* gradient;
  };

  size_t size() const { return size_; }
  const Row& operator[](size_t i) const { return rows_[i]; }

 private:
  static constexpr uint32_t kNothing = ~uint32_t{0};

  void add(uint32_t row, const float* gradient) {
    if (row == kEmpty) return;
    uint32_t& place = find(row);
    if (place == kNothing) {
      place = static_cast<uint32_t>(size_);
      rows_[size_++] = {row, 1, gradient};
      return;
    }
    Row& known = rows_[place];
    if (known.occurrences++ == 1) {
      sum_of(known.gradient, gradient, next_sum_);
      known.gradient = next_sum_;
      next_sum_ += dim_;
    } else {
      sum_of(known.gradient, gradient, const_cast<float*>(known.gradient));
    }
  }

  void sum_of(const float* one, const float* other, float* sum) const {
    for (size_t i = 0; i < dim_; ++i) sum[i] = one[i] + other[i];
  }

  // Where the number of a row stands, by linear probing.
  uint32_t& find(uint32_t row) {
    const size_t last = places_.size() - 1;
    size_t at = row * kGolden >> shift_;
    while (places_[at] != kNothing && rows_[places_[at]].row != row) at = (at + 1) & last;
    return places_[at];
  }

  size_t dim_ = 0;
  int shift_ = 0;
  std::vector<uint32_t> places_;  // numbers in rows_
  std::vector<Row> rows_;         // size_ of them in use
  size_t size_ = 0;
  std::vector<float> sums_;
  float* next_sum_ = nullptr;
};

}  // namespace monobeam
