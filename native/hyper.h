// Hyper-parameters of an optimizer, as its constructor reads them.
#pragma once

#include <cmath>
#include <map>
#include <stdexcept>
#include <string>

#include "optimizers.h"
#include "shown.h"

namespace monobeam {

// Hyper-parameters by name with default and allowed range; complains about names that nobody asked for. A value is
// given once: whoever asks for the same name again gets the fallback.
class HyperReader {
 public:
  HyperReader(const std::string& optimizer, const Hyper& given) : optimizer_(optimizer), left_(given) {}

  float non_negative(const std::string& name, double fallback) {
    return static_cast<float>(read(name, fallback, "finite and >= 0", [](float value) { return value >= 0; }));
  }
  float positive(const std::string& name, double fallback) {
    return static_cast<float>(read(name, fallback, "finite and > 0", [](float value) { return value > 0; }));
  }
  double fraction(const std::string& name, double fallback) {
    return read(name, fallback, "in [0, 1)", [](float value) { return value >= 0 && value < 1; });
  }
  bool flag(const std::string& name) {
    return read(name, 0, "0 or 1", [](float value) { return value == 0 || value == 1; }) == 1;
  }

  std::invalid_argument divides_by_zero(const std::string& names) const {
    return std::invalid_argument(optimizer_ + " divides by 0 if " + names + " are all 0");
  }

  void finish() const {
    if (left_.empty()) return;
    std::string allowed;
    for (const auto& name : asked_) allowed += (allowed.empty() ? "" : ", ") + name.first;
    throw std::invalid_argument("optimizer " + optimizer_ + " has no hyper-parameter '" + left_.begin()->first +
                                "'; allowed: " + allowed);
  }

 private:
  // What counts is the float32 that a value becomes: one that is as good as 0 or infinite there is refused.
  double read(const std::string& name, double fallback, const char* range, bool (*allowed)(float)) {
    asked_[name] = fallback;
    const auto found = left_.find(name);
    if (found == left_.end()) return fallback;
    const double value = found->second;
    const float narrow = static_cast<float>(value);
    if (!allowed(narrow) || !std::isfinite(narrow) || (narrow == 0 && value != 0)) {
      throw std::invalid_argument("hyper-parameter " + name + "=" + shown(value) + " of optimizer " + optimizer_ +
                                  " must be " + range + " as a float32");
    }
    left_.erase(found);
    return value;
  }

  std::string optimizer_;
  Hyper left_;
  Hyper asked_;
};

}  // namespace monobeam
