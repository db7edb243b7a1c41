// Gradients of bags, summed by row.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <vector>

#include "buckets.h"
#include "span.h"

namespace monobeam {

// The distinct rows of a batch in order of first occurrence, each with the sum of its gradients in order of occurrence
// (the first one copied, then added) and the number of its occurrences. A pure function of the batch.
class RowGradients {
 public:
  // handles: N of them, kEmpty where there is no row; bag m is handles[offsets[m]..offsets[m+1]);
  // gradients: one of `dim` floats per bag.
  RowGradients(Span<const uint32_t> handles, Span<const int64_t> offsets, const float* gradients, size_t dim)
      : dim_(dim) {
    size_t capacity = 16;
    while (capacity < 2 * handles.size) capacity *= 2;
    places_.assign(capacity, kEmpty);
    for (size_t bag = 0; bag + 1 < offsets.size; ++bag) {
      for (int64_t at = offsets[bag]; at < offsets[bag + 1]; ++at) {
        if (handles[at] != kEmpty) add(handles[at], gradients + bag * dim);
      }
    }
  }

  size_t size() const { return rows_.size(); }
  uint32_t row(size_t i) const { return rows_[i]; }
  uint32_t occurrences(size_t i) const { return occurrences_[i]; }
  const float* gradient(size_t i) const { return sums_.data() + i * dim_; }

 private:
  void add(uint32_t row, const float* gradient) {
    uint32_t& place = find(row);
    if (place == kEmpty) {
      place = static_cast<uint32_t>(rows_.size());
      rows_.push_back(row);
      occurrences_.push_back(1);
      sums_.insert(sums_.end(), gradient, gradient + dim_);
      return;
    }
    ++occurrences_[place];
    float* sum = sums_.data() + place * dim_;
    for (size_t i = 0; i < dim_; ++i) sum[i] += gradient[i];
  }

  // The place of the row in the lists, by linear probing.
  uint32_t& find(uint32_t row) {
    const size_t last = places_.size() - 1;
    size_t at = (row * kGolden >> 32) & last;
    while (places_[at] != kEmpty && rows_[places_[at]] != row) at = (at + 1) & last;
    return places_[at];
  }

  size_t dim_;
  std::vector<uint32_t> places_;
  std::vector<uint32_t> rows_;
  std::vector<uint32_t> occurrences_;
  std::vector<float> sums_;
};

}  // namespace monobeam
