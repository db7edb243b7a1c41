// What the test program says when something is not as expected.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "span.h"

#define EXPECT(condition)                                                              \
  do {                                                                                 \
    if (!(condition)) {                                                                \
      std::fprintf(stderr, "%s:%d: expected %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                    \
    }                                                                                  \
  } while (false)

#define EXPECT_THROWS(type, call)                                                               \
  do {                                                                                          \
    bool thrown = false;                                                                        \
    try {                                                                                       \
      call;                                                                                     \
    } catch (const type&) {                                                                     \
      thrown = true;                                                                            \
    }                                                                                           \
    if (!thrown) {                                                                              \
      std::fprintf(stderr, "%s:%d: expected %s from %s\n", __FILE__, __LINE__, #type, #call); \
      std::exit(1);                                                                             \
    }                                                                                           \
  } while (false)

namespace monobeam {

template <typename T>
Span<const T> span(const std::vector<T>& values) {
  return {values.data(), values.size()};
}

inline std::string content_of(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

inline bool file_exists(const std::string& path) { return std::ifstream(path).good(); }

}  // namespace monobeam
