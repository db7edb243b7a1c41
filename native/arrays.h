// Arrays from and to Python: they come in without a copy, and go out as new numpy arrays.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

#include "span.h"

namespace monobeam {

namespace nb = nanobind;

using Array = nb::ndarray<nb::ro>;

template <typename T>
using Vector = nb::ndarray<nb::numpy, T, nb::ndim<1>>;
template <typename T>
using Matrix = nb::ndarray<nb::numpy, T, nb::ndim<2>>;

inline std::string describe(const Array& array) {
  const nb::dlpack::dtype type = array.dtype();
  const char* kinds[] = {"int", "uint", "float"};
  std::string text = type.code < 3 ? kinds[type.code] + std::to_string(type.bits) : "another type";
  text += "[";
  for (size_t i = 0; i < array.ndim(); ++i) text += (i == 0 ? "" : ", ") + std::to_string(array.shape(i));
  return text + "]";
}

// As numpy says it.
template <typename T>
const char* type_name();
template <>
inline const char* type_name<uint64_t>() {
  return "uint64";
}
template <>
inline const char* type_name<int64_t>() {
  return "int64";
}
template <>
inline const char* type_name<int32_t>() {
  return "int32";
}
template <>
inline const char* type_name<uint32_t>() {
  return "uint32";
}
template <>
inline const char* type_name<uint8_t>() {
  return "uint8";
}
template <>
inline const char* type_name<float>() {
  return "float32";
}

inline bool contiguous(const Array& array) {
  if (array.size() == 0) return true;
  int64_t expected = 1;
  for (size_t i = array.ndim(); i-- > 0;) {
    if (array.shape(i) != 1 && array.stride(i) != expected) return false;
    expected *= static_cast<int64_t>(array.shape(i));
  }
  return true;
}

// A float32 array where an uint64 one belongs is refused, never converted: the caller's mistake would go unnoticed.
template <typename T>
Span<const T> vector(const Array& array, const char* name) {
  if (array.dtype() != nb::dtype<T>() || array.ndim() != 1 || array.device_type() != nb::device::cpu::value) {
    throw nb::type_error(
        (std::string(name) + " must be " + type_name<T>() + "[N], got " + describe(array)).c_str());
  }
  if (!contiguous(array)) throw std::invalid_argument(std::string(name) + " must be contiguous");
  return {static_cast<const T*>(array.data()), array.size()};
}

// Keys are 64 bits: an int64 is the key that uint64 gives its bits.
inline Span<const uint64_t> keys_of(const Array& array) {
  if (array.dtype() == nb::dtype<int64_t>()) {
    const Span<const int64_t> keys = vector<int64_t>(array, "keys");
    return {reinterpret_cast<const uint64_t*>(keys.data), keys.size};
  }
  return vector<uint64_t>(array, "keys");
}

template <typename T>
const T* matrix(const Array& array, const char* name, size_t rows, size_t columns) {
  if (array.dtype() != nb::dtype<T>() || array.ndim() != 2 || array.device_type() != nb::device::cpu::value) {
    throw nb::type_error(
        (std::string(name) + " must be " + type_name<T>() + "[N, width], got " + describe(array)).c_str());
  }
  if (array.shape(0) != rows || array.shape(1) != columns) {
    throw std::invalid_argument(std::string(name) + " must be " + type_name<T>() + "[" + std::to_string(rows) + ", " +
                                std::to_string(columns) + "], got " + describe(array));
  }
  if (!contiguous(array)) throw std::invalid_argument(std::string(name) + " must be C-contiguous");
  return static_cast<const T*>(array.data());
}

// The same for results: read-only arrays of numpy are refused; those of others cannot be told from the rest.
template <typename T>
T* writable_matrix(const Array& array, const char* name, size_t rows, size_t columns) {
  const T* data = matrix<T>(array, name, rows, columns);
  const nb::object owner = nb::cast(array);
  const bool writable = !nb::hasattr(owner, "flags") || nb::cast<bool>(owner.attr("flags").attr("writeable"));
  if (!writable) throw std::invalid_argument(std::string(name) + " is read-only");
  return const_cast<T*>(data);
}

// A result: memory that becomes a numpy array without a copy.
template <typename T>
class Result {
 public:
  explicit Result(size_t size) : data_(new T[size > 0 ? size : 1]) {}

  T* data() { return data_.get(); }

  Vector<T> vector(size_t size) {
    T* data = data_.get();
    return Vector<T>(data, {size}, owner());
  }
  Matrix<T> matrix(size_t rows, size_t columns) {
    T* data = data_.get();
    return Matrix<T>(data, {rows, columns}, owner());
  }

 private:
  nb::capsule owner() {
    return nb::capsule(data_.release(), [](void* data) noexcept { delete[] static_cast<T*>(data); });
  }

  std::unique_ptr<T[]> data_;
};

}  // namespace monobeam
