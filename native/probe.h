// Finding many keys at once: a pipeline over groups of keys, in which the cache lines that a step needs were asked for
// by the step before. One key after the other would wait for memory two or three times; a group waits once for all.
#pragma once

#include <cstddef>
#include <cstdint>

#include "arena.h"
#include "buckets.h"
#include "span.h"

namespace monobeam {

// What the rows of keys are fetched for.
struct RowAccess {
  const uint8_t* rows;
  size_t stride;
  size_t bytes;  // of a row that will be read
};

// handles[i] = the row of keys[i], or kEmpty. Rows are asked for if `access` is given.
void find_rows(const Buckets& index, Span<const uint64_t> keys, const RowAccess* access, uint32_t* handles);

// The same for float32 rows, and copies each to out[i], or zeros.
void copy_rows(const Buckets& index, Span<const uint64_t> keys, const RowAccess& access, uint32_t* handles,
               float* out);

// Finds rows, moves their times forward to `now` and marks their buckets. The hashes of all keys go to `hashes`, and
// the numbers of keys that have no row to `unknown`, in order; returns how many there are.
size_t stamp_rows(Buckets& index, Span<const uint64_t> keys, uint32_t now, const RowAccess& access, uint32_t* handles,
                  uint64_t* hashes, uint32_t* unknown);

// out[i] = the float32 row of handles[i], zeros for kEmpty.
void gather_rows(Span<const uint32_t> handles, const RowAccess& access, float* out);

}  // namespace monobeam
