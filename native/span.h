// A pointer with a length; C++17 has no std::span.
#pragma once

#include <cstddef>

namespace monobeam {

template <typename T>
struct Span {
  T* data;
  size_t size;

  T& operator[](size_t i) const { return data[i]; }
  T* begin() const { return data; }
  T* end() const { return data + size; }
};

}  // namespace monobeam
