// Optimizers of rows: the state that a row needs, and steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <string>

namespace monobeam {

using Hyper = std::map<std::string, double>;

// A batch of steps, each for another row: its float[dim] of weights, its state, the float[dim] of its gradient. An
// optimizer that has scratch_floats() gets as many for each row.
struct Steps {
  static constexpr size_t kMost = 8;  // while they are made, the rows of the next ones come from memory

  float* const* weights;
  float* const* states;
  const float* const* gradients;
  size_t count;
  size_t dim;
  float learning_rate;
  float* scratch;
};

// All arithmetic is float32 in the order of the textbook formula, one rounding per operation (the build forbids fused
// multiply-adds), so that the same formula in numpy or torch gives the same bits. A row moves only in batches that it
// is in: nothing decays in between. Immutable; thread-safe.
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  virtual size_t state_floats(size_t dim) const = 0;
  virtual void init(float* state, size_t dim) const = 0;
  virtual size_t scratch_floats(size_t) const { return 0; }
  virtual void steps(const Steps& batch) const noexcept = 0;  // what is counted is also done
  virtual bool divides_by_rate() const { return false; }
};

// Complains about an unknown name or hyper-parameter, and says what is allowed. Beside its own, every optimizer has the
// hyper-parameters of GradientTransform.
std::unique_ptr<Optimizer> make_optimizer(const std::string& name, const Hyper& given);

}  // namespace monobeam
