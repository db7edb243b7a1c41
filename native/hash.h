// Fixed 64-bit hashes and the pure random functions built on them.
//
// Everything here is part of the data formats: feature ids, initial rows and admission draws are derived from it, on
// every machine and in every version. tests/native/test_hash.py holds the test vectors; nothing may change them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace monobeam {

constexpr uint64_t kGolden = 0x9e3779b97f4a7c15;  // 2^64 / golden ratio: steps of a Weyl sequence
constexpr uint64_t kDraw = 0xd1b54a32d192ed03;    // keeps admission draws apart from initial values

// The finaliser of splitmix64 (Steele, Lea, Flood 2014; constants by Stafford): a bijection with full avalanche.
inline uint64_t mix(uint64_t x) {
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9;
  x ^= x >> 27;
  x *= 0x94d049bb133111eb;
  x ^= x >> 31;
  return x;
}

// A bijection of the value for every seed, so integers never collide in 64 bits.
inline uint64_t hash_int(uint64_t value, uint64_t seed) { return mix(mix(seed + kGolden) ^ value); }

// Chains mix over the little-endian 8-byte words, the last one padded with zeros, and ends with the length.
inline uint64_t hash_bytes(const uint8_t* data, size_t size, uint64_t seed) {
  uint64_t h = mix(seed + kGolden);
  size_t at = 0;
  for (; at + 8 <= size; at += 8) {
    uint64_t word;
    std::memcpy(&word, data + at, 8);
    h = mix(h ^ word);
  }
  if (at < size) {
    uint64_t word = 0;
    std::memcpy(&word, data + at, size - at);
    h = mix(h ^ word);
  }
  return mix(h ^ size);
}

// Component i of the initial row of a key: uniform in [-scale, scale), on a grid of 2^24 points so that float32
// arithmetic is exact up to the last product. Two components share one hash.
class InitialRow {
 public:
  InitialRow(uint64_t seed, float scale) : stream_(mix(seed + kGolden)), scale_(scale) {}

  void fill(uint64_t key, float* row, size_t dim) const {
    const uint64_t start = mix(key ^ stream_);
    const float scale = scale_;
    for (size_t i = 0; i < dim; i += 2) {
      const uint64_t bits = mix(start + (i + 1) * kGolden);
      row[i] = on_grid(bits >> 40) * scale;
      if (i + 1 < dim) row[i + 1] = on_grid(bits >> 8 & 0xffffff) * scale;
    }
  }

 private:
  static float on_grid(uint64_t bits) { return static_cast<float>(static_cast<int32_t>(bits)) * 0x1p-23f - 1.0f; }

  uint64_t stream_;
  float scale_;
};

// Uniform in [0, 1): the n-th draw of a key, a pure function of its arguments.
inline double uniform_draw(uint64_t key, uint64_t n, uint64_t seed) {
  const uint64_t bits = mix(mix(key ^ mix(seed + kDraw)) + n * kGolden);
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

}  // namespace monobeam
