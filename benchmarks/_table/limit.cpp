// What a table could reach if it knew each row's number without looking: the random reads and writes alone.
//
// The rows lie in 2 MiB pages, all of them touched; a row is its floats, `stride` bytes after the one before it.

#include <sys/mman.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace {

constexpr size_t kHugePage = size_t{1} << 21;
constexpr size_t kAhead = 32;  // rows; from 16 on it makes no difference

inline size_t ahead(size_t i, size_t count) { return i + kAhead < count ? i + kAhead : count - 1; }

template <size_t kBytes>
void gather_rows(const char* rows, size_t stride, const uint32_t* numbers, size_t count, char* out) {
  for (size_t i = 0; i < count; ++i) {
    __builtin_prefetch(rows + numbers[ahead(i, count)] * stride);
    std::memcpy(out + i * kBytes, rows + numbers[i] * stride, kBytes);
  }
}

template <size_t kDim>
void adagrad_rows(char* rows, size_t stride, const uint32_t* numbers, size_t count, const float* gradients,
                  float learning_rate, float epsilon) {
  for (size_t i = 0; i < count; ++i) {
    const char* next = rows + numbers[ahead(i, count)] * stride;
    for (size_t at = 0; at < 2 * kDim * sizeof(float); at += 64) __builtin_prefetch(next + at, 1);
    float* __restrict weights = reinterpret_cast<float*>(rows + numbers[i] * stride);
    float* __restrict sums = weights + kDim;
    const float* __restrict gradient = gradients + i * kDim;
    for (size_t d = 0; d < kDim; ++d) {
      sums[d] += gradient[d] * gradient[d];
      weights[d] -= learning_rate * gradient[d] / (std::sqrt(sums[d]) + epsilon);
    }
  }
}

}  // namespace

extern "C" {

// Rows whose first float is their number and all others 1, so that a gather can be checked; null: no memory.
char* make_rows(size_t count, size_t stride) {
  const size_t bytes = count * stride + kHugePage;
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  madvise(memory, bytes, MADV_HUGEPAGE);
  char* rows = reinterpret_cast<char*>((reinterpret_cast<uintptr_t>(memory) + kHugePage - 1) & ~(kHugePage - 1));
  for (size_t i = 0; i < count; ++i) {
    float* row = reinterpret_cast<float*>(rows + i * stride);
    row[0] = static_cast<float>(i);
    for (size_t d = 1; d < stride / sizeof(float); ++d) row[d] = 1;
  }
  return rows;
}

// Copies the first `bytes` of each row; -1: no code for this width.
int gather(const char* rows, size_t stride, size_t bytes, const uint32_t* numbers, size_t count, char* out) {
  switch (bytes) {
    case 16: gather_rows<16>(rows, stride, numbers, count, out); return 0;
    case 32: gather_rows<32>(rows, stride, numbers, count, out); return 0;
    case 64: gather_rows<64>(rows, stride, numbers, count, out); return 0;
    case 128: gather_rows<128>(rows, stride, numbers, count, out); return 0;
    default: return -1;
  }
}

// Adagrad on rows of `dim` weights and `dim` sums of squares, one gradient after the other; -1: no code for this width.
int adagrad(char* rows, size_t stride, size_t dim, const uint32_t* numbers, size_t count, const float* gradients,
            float learning_rate, float epsilon) {
  switch (dim) {
    case 4: adagrad_rows<4>(rows, stride, numbers, count, gradients, learning_rate, epsilon); return 0;
    case 8: adagrad_rows<8>(rows, stride, numbers, count, gradients, learning_rate, epsilon); return 0;
    case 16: adagrad_rows<16>(rows, stride, numbers, count, gradients, learning_rate, epsilon); return 0;
    case 32: adagrad_rows<32>(rows, stride, numbers, count, gradients, learning_rate, epsilon); return 0;
    default: return -1;
  }
}
}
