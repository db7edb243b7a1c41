// How error messages quote numbers.
#pragma once

#include <cstdio>
#include <string>

namespace monobeam {

// Unlike std::to_string, which makes zero of what is small.
inline std::string shown(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.9g", value);
  return text;
}

}  // namespace monobeam
