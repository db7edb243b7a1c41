// How the steps of an optimizer are compiled: written once, for several widths of vectors. Only for the files that
// define one.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "hyper.h"
#include "optimizers.h"
#include "widths.h"

// Before a loop over several parts of a state: no component depends on another one. Otherwise the compiler would take
// short rows one component at a time, as a vector of one part would reach into the next.
#define MONOBEAM_DISTINCT _Pragma("GCC ivdep")
#define MONOBEAM_STEPS(Kind)                                                                               \
  MONOBEAM_WIDTHS void steps_of(const Kind& optimizer, const Steps& batch) { each_row(optimizer, batch); } \
  void Kind::steps(const Steps& batch) const noexcept { steps_of(*this, batch); }

namespace monobeam {

// `Kind` has step(weights, state, gradient, dim, learning rate) for one row.
template <typename Kind>
MONOBEAM_INLINE void each_row(const Kind& optimizer, const Steps& batch) {
  const Kind local = optimizer;  // its members can be in registers: no row is in it
  for (size_t i = 0; i < batch.count; ++i) {
    local.step(batch.weights[i], batch.states[i], batch.gradients[i], batch.dim, batch.learning_rate);
  }
}

// Optimizers by name.
using Kinds = std::map<std::string, std::unique_ptr<Optimizer> (*)(HyperReader&)>;

template <typename Kind>
std::unique_ptr<Optimizer> make(HyperReader& hyper) {
  return std::make_unique<Kind>(hyper);
}

Kinds sgd_kinds();      // sgd.cpp
Kinds adagrad_kinds();  // adagrad.cpp
Kinds adam_kinds();     // adam.cpp
Kinds ftrl_kinds();     // ftrl.cpp

}  // namespace monobeam
