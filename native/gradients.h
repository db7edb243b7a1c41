// Gradients of bags, summed by row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "span.h"

namespace monobeam {

// The distinct rows of a batch in order of first occurrence, each with the sum of its gradients in order of occurrence
// (the first one copied, then added) and the number of its occurrences. A pure function of the batch. Reading it again
// and again reuses its memory, which is why there is one per thread.
class RowGradients {
 public:
  struct Row {
    uint32_t row, occurrences;
    const float* gradient;
  };

  // handles: N of them, kEmpty where there is no row; bag m is handles[offsets[m]..offsets[m+1]), or the m-th handle
  // alone where there are no offsets; gradients: one of `dim` floats per bag, read until the next call.
  void read(Span<const uint32_t> handles, Span<const int64_t> offsets, const float* gradients, size_t dim);

  size_t size() const { return size_; }
  const Row& operator[](size_t i) const { return rows_[i]; }

 private:
  std::vector<uint32_t> places_;  // a hash table of numbers in rows_
  std::vector<Row> rows_;         // size_ of them in use
  std::vector<float> sums_;
  size_t size_ = 0;
};

}  // namespace monobeam
