// How an embedding is written in a row.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace monobeam {

// Optimizer state is float32 in every format, and so is all arithmetic.
enum class RowFormat : uint32_t {
  kFp32 = 0,
  kFp16 = 1,  // IEEE half: 11 significant bits; beyond +-65504 it is cut off there
  kBf16 = 2,  // the upper half of a float32: 8 significant bits
  kInt8 = 3,  // float32 scale, then int8[dim]: scale = max |w| / 127; for serving, where nothing is learnt
};

// Complains about an unknown name, and says what is allowed.
RowFormat parse_row_format(const std::string& name);
const char* name_of(RowFormat format);

// A multiple of 4.
size_t embedding_bytes(RowFormat format, size_t dim);

// Bytes to float32[dim]; exact. Zero bytes are zeros in every format.
void decode(RowFormat format, const uint8_t* row, size_t dim, float* out);

// The nearest value, ties to even. What was decoded comes back as the same bytes, except that int8 may move by one.
void encode_nearest(RowFormat format, const float* values, size_t dim, uint8_t* row);

// One of the two neighbours, the nearer one more often: right on average, so that steps much smaller than the format
// can tell are not lost (Gupta et al. 2015). The draws are a pure function of `stream`. fp16 and bf16 only.
void encode_stochastic(RowFormat format, const float* values, size_t dim, uint64_t stream, uint8_t* row);

}  // namespace monobeam
