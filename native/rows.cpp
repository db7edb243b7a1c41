#include "rows.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "hash.h"
#include "widths.h"

namespace monobeam {
namespace {

constexpr const char* kNames[] = {"fp32", "fp16", "bf16", "int8"};
constexpr uint64_t kRounding = 0xa24baed4963ee407;  // keeps draws of rounding apart from the others

MONOBEAM_INLINE uint32_t bits_of(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
MONOBEAM_INLINE float float_of(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// --- halves --------------------------------------------------------------------------------------------------------

constexpr uint32_t kHalfMax = 0x7bff;      // 65504
constexpr uint32_t kHalfNan = 0x7e00;
constexpr uint32_t kLeastNormal = 113 << 23;  // 2^-14, the least half with all its bits

MONOBEAM_INLINE float half_to_float(uint16_t half) {
  const uint32_t magnitude = half & 0x7fff;
  // The exponent is biased by 112 more in a float; a product with 2^112 says that also of halves below 2^-14.
  const float value = float_of(magnitude << 13) * 0x1p112f;
  const uint32_t special = magnitude << 13 | 0x7f800000;  // infinite, or not a number
  const uint32_t is_special = -static_cast<uint32_t>(magnitude >= 0x7c00);  // a mask: a choice keeps gcc from vectors
  const uint32_t bits = (special & is_special) | (bits_of(value) & ~is_special);
  return float_of(bits | static_cast<uint32_t>(half & 0x8000) << 16);
}

// `below` of 2^13 is what is added before the lower 13 bits are dropped. Of halves below 2^-14, what is dropped counts
// where it is more than `fraction` of a unit.
MONOBEAM_INLINE uint16_t float_to_half(float value, uint32_t below, float fraction) {
  const uint32_t bits = bits_of(value), magnitude = bits & 0x7fffffff;
  const uint32_t normal = (magnitude + below - (112u << 23)) >> 13;
  // Below 2^-14 halves are multiples of 2^-24.
  const float scaled = std::min(2048.0f, float_of(magnitude) * 0x1p24f);  // 2048 also for what is not a number
  const int32_t whole = static_cast<int32_t>(scaled);
  const uint32_t small = whole + (fraction < scaled - static_cast<float>(whole));
  const uint32_t finite = magnitude < kLeastNormal ? small : std::min(normal, kHalfMax);
  const uint32_t half = magnitude > 0x7f800000 ? kHalfNan : magnitude > 0x477fe000 ? kHalfMax : finite;
  return static_cast<uint16_t>(half | (bits >> 16 & 0x8000));
}

MONOBEAM_INLINE uint16_t nearest_half(float value) {
  const uint32_t magnitude = bits_of(value) & 0x7fffffff;
  const uint32_t below = 0xfff + (magnitude >> 13 & 1);
  // Adding 2^23 in float arithmetic rounds to a whole number, ties to even.
  const float scaled = std::min(2048.0f, float_of(magnitude) * 0x1p24f);
  const float rounded = (scaled + 0x1p23f) - 0x1p23f;
  return float_to_half(magnitude < kLeastNormal ? float_of(bits_of(rounded * 0x1p-24f) | (bits_of(value) & 0x80000000))
                                                : value,
                       below, 0.0f);
}

MONOBEAM_INLINE uint16_t bfloat(float value, uint32_t below) {
  const uint32_t bits = bits_of(value);
  const bool finite = (bits & 0x7f800000) != 0x7f800000;
  const uint32_t rounded = (bits + below) >> 16;
  const uint32_t largest = (bits & 0x80000000) >> 16 | 0x7f7f;
  const bool overflows = (rounded & 0x7f80) == 0x7f80;
  const uint32_t special = bits >> 16 | ((bits & 0x7fffff) != 0 ? 0x40 : 0);  // stays not a number
  return static_cast<uint16_t>(!finite ? special : overflows ? largest : rounded);
}

// --- whole embeddings ----------------------------------------------------------------------------------------------

MONOBEAM_WIDTHS void decode_halves(const uint16_t* row, size_t dim, float* out) {
  for (size_t i = 0; i < dim; ++i) out[i] = half_to_float(row[i]);
}

MONOBEAM_WIDTHS void decode_bfloats(const uint16_t* row, size_t dim, float* out) {
  for (size_t i = 0; i < dim; ++i) out[i] = float_of(static_cast<uint32_t>(row[i]) << 16);
}

MONOBEAM_WIDTHS void decode_int8(const uint8_t* row, size_t dim, float* out) {
  float scale;
  std::memcpy(&scale, row, sizeof(scale));
  const int8_t* steps = reinterpret_cast<const int8_t*>(row + sizeof(scale));
  for (size_t i = 0; i < dim; ++i) out[i] = static_cast<float>(steps[i]) * scale;
}

MONOBEAM_WIDTHS void encode_halves(const float* values, size_t dim, uint16_t* row) {
  for (size_t i = 0; i < dim; ++i) row[i] = nearest_half(values[i]);
}

MONOBEAM_WIDTHS void encode_bfloats(const float* values, size_t dim, uint16_t* row) {
  for (size_t i = 0; i < dim; ++i) row[i] = bfloat(values[i], 0x7fff + (bits_of(values[i]) >> 16 & 1));
}

// A value that is not finite makes the scale so, and then all of the row reads as not a number.
MONOBEAM_WIDTHS void encode_int8(const float* values, size_t dim, uint8_t* row) {
  float most = 0, odd = 0;
  for (size_t i = 0; i < dim; ++i) {
    most = std::max(most, std::fabs(values[i]));
    odd += values[i] - values[i];
  }
  const float scale = odd == 0 ? most / 127 : std::nanf("");
  std::memcpy(row, &scale, sizeof(scale));
  int8_t* steps = reinterpret_cast<int8_t*>(row + sizeof(scale));
  const bool usable = scale > 0;
  for (size_t i = 0; i < dim; ++i) {
    const float steps_away = usable ? values[i] / scale : 0.0f;
    const float rounded = (steps_away + 0x1.8p23f) - 0x1.8p23f;  // to a whole number, ties to even
    steps[i] = static_cast<int8_t>(std::max(-127.0f, std::min(127.0f, rounded)));
  }
}

MONOBEAM_WIDTHS void encode_stochastic_halves(const float* values, size_t dim, uint64_t stream, uint16_t* row) {
  for (size_t i = 0; i < dim; ++i) {
    const uint32_t draw = static_cast<uint32_t>(mix(stream + (i + 1) * kGolden) >> 32);
    row[i] = float_to_half(values[i], draw >> 19, static_cast<float>(static_cast<int32_t>(draw >> 8)) * 0x1p-24f);
  }
}

MONOBEAM_WIDTHS void encode_stochastic_bfloats(const float* values, size_t dim, uint64_t stream, uint16_t* row) {
  for (size_t i = 0; i < dim; ++i) {
    row[i] = bfloat(values[i], static_cast<uint32_t>(mix(stream + (i + 1) * kGolden) >> 48));
  }
}

uint16_t* halves(uint8_t* row) { return reinterpret_cast<uint16_t*>(row); }
const uint16_t* halves(const uint8_t* row) { return reinterpret_cast<const uint16_t*>(row); }

}  // namespace

RowFormat parse_row_format(const std::string& name) {
  for (uint32_t format = 0; format < 4; ++format) {
    if (name == kNames[format]) return static_cast<RowFormat>(format);
  }
  throw std::invalid_argument("unknown row format '" + name + "'; allowed: fp32, fp16, bf16, int8");
}

const char* name_of(RowFormat format) { return kNames[static_cast<uint32_t>(format)]; }

size_t embedding_bytes(RowFormat format, size_t dim) {
  switch (format) {
    case RowFormat::kFp32: return dim * sizeof(float);
    case RowFormat::kFp16:
    case RowFormat::kBf16: return (dim + 1) / 2 * 4;
    case RowFormat::kInt8: return dim == 0 ? 0 : sizeof(float) + (dim + 3) / 4 * 4;
  }
  return 0;
}

void decode(RowFormat format, const uint8_t* row, size_t dim, float* out) {
  switch (format) {
    case RowFormat::kFp32: std::memcpy(out, row, dim * sizeof(float)); return;
    case RowFormat::kFp16: decode_halves(halves(row), dim, out); return;
    case RowFormat::kBf16: decode_bfloats(halves(row), dim, out); return;
    case RowFormat::kInt8: if (dim > 0) decode_int8(row, dim, out); return;
  }
}

void encode_nearest(RowFormat format, const float* values, size_t dim, uint8_t* row) {
  switch (format) {
    case RowFormat::kFp32: std::memcpy(row, values, dim * sizeof(float)); return;
    case RowFormat::kFp16: encode_halves(values, dim, halves(row)); return;
    case RowFormat::kBf16: encode_bfloats(values, dim, halves(row)); return;
    case RowFormat::kInt8: if (dim > 0) encode_int8(values, dim, row); return;
  }
}

void encode_stochastic(RowFormat format, const float* values, size_t dim, uint64_t stream, uint8_t* row) {
  const uint64_t start = mix(stream ^ kRounding);
  if (format == RowFormat::kFp16) {
    encode_stochastic_halves(values, dim, start, halves(row));
  } else {
    encode_stochastic_bfloats(values, dim, start, halves(row));
  }
}

}  // namespace monobeam
