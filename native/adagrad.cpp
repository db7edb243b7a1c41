// Optimizers that divide by the root of summed or averaged squares of gradients.
#include <algorithm>
#include <cmath>

#include "kernel.h"

namespace monobeam {
namespace {

// Duchi, Hazan, Singer 2011. State: n, the sum of squared gradients.
class Adagrad final : public Optimizer {
 public:
  explicit Adagrad(HyperReader& hyper)
      : initial_(hyper.non_negative("initial_accumulator", 0.1)), epsilon_(hyper.non_negative("epsilon", 0)) {
    if (initial_ + epsilon_ == 0) throw hyper.divides_by_zero("initial_accumulator and epsilon");
  }
  size_t state_floats(size_t dim) const override { return dim; }
  void init(float* n, size_t dim) const override { std::fill_n(n, dim, initial_); }
  void steps(const Steps& batch) const noexcept override;
  MONOBEAM_INLINE void step(float* __restrict w, float* __restrict n, const float* __restrict g, size_t dim,
                            float lr) const {
    for (size_t i = 0; i < dim; ++i) {
      n[i] += g[i] * g[i];
      w[i] -= lr * g[i] / (std::sqrt(n[i]) + epsilon_);
    }
  }

 private:
  float initial_, epsilon_;
};

// Adagrad with one n per row, the sum of the mean squared gradients (as in DLRM).
class RowwiseAdagrad final : public Optimizer {
 public:
  explicit RowwiseAdagrad(HyperReader& hyper)
      : initial_(hyper.non_negative("initial_accumulator", 0.1)), epsilon_(hyper.non_negative("epsilon", 0)) {
    if (initial_ + epsilon_ == 0) throw hyper.divides_by_zero("initial_accumulator and epsilon");
  }
  size_t state_floats(size_t) const override { return 1; }
  void init(float* n, size_t) const override { *n = initial_; }
  void steps(const Steps& batch) const noexcept override;
  MONOBEAM_INLINE void step(float* __restrict w, float* __restrict n, const float* __restrict g, size_t dim,
                            float lr) const {
    if (dim == 0) return;
    float sum = 0;
    for (size_t i = 0; i < dim; ++i) sum += g[i] * g[i];
    *n += sum / static_cast<float>(dim);
    const float denominator = std::sqrt(*n) + epsilon_;
    for (size_t i = 0; i < dim; ++i) w[i] -= lr * g[i] / denominator;
  }

 private:
  float initial_, epsilon_;
};

// Tieleman, Hinton 2012. State: n, the moving average of squared gradients.
class RmsProp final : public Optimizer {
 public:
  explicit RmsProp(HyperReader& hyper) : RmsProp(hyper.fraction("decay", 0.9), hyper.positive("epsilon", 1e-8)) {}
  size_t state_floats(size_t dim) const override { return dim; }
  void init(float* n, size_t dim) const override { std::fill_n(n, dim, 0.0f); }
  void steps(const Steps& batch) const noexcept override;
  MONOBEAM_INLINE void step(float* __restrict w, float* __restrict n, const float* __restrict g, size_t dim,
                            float lr) const {
    for (size_t i = 0; i < dim; ++i) {
      n[i] = keep_ * n[i] + take_ * (g[i] * g[i]);
      w[i] -= lr * g[i] / (std::sqrt(n[i]) + epsilon_);
    }
  }

 private:
  RmsProp(double decay, float epsilon)
      : keep_(static_cast<float>(decay)), take_(static_cast<float>(1 - decay)), epsilon_(epsilon) {}

  float keep_, take_, epsilon_;
};

// Zeiler 2012, scaled by the learning rate as torch does. State: n and a, the moving averages of squared gradients and
// of squared moves.
class Adadelta final : public Optimizer {
 public:
  explicit Adadelta(HyperReader& hyper) : Adadelta(hyper.fraction("rho", 0.9), hyper.positive("epsilon", 1e-6)) {}
  size_t state_floats(size_t dim) const override { return 2 * dim; }
  void init(float* state, size_t dim) const override { std::fill_n(state, 2 * dim, 0.0f); }
  void steps(const Steps& batch) const noexcept override;
  MONOBEAM_INLINE void step(float* __restrict w, float* __restrict state, const float* __restrict g, size_t dim,
                            float lr) const {
    float* n = state;
    float* a = state + dim;
    MONOBEAM_DISTINCT
    for (size_t i = 0; i < dim; ++i) {
      n[i] = keep_ * n[i] + take_ * (g[i] * g[i]);
      const float move = std::sqrt(a[i] + epsilon_) / std::sqrt(n[i] + epsilon_) * g[i];
      a[i] = keep_ * a[i] + take_ * (move * move);
      w[i] -= lr * move;
    }
  }

 private:
  Adadelta(double rho, float epsilon)
      : keep_(static_cast<float>(rho)), take_(static_cast<float>(1 - rho)), epsilon_(epsilon) {}

  float keep_, take_, epsilon_;
};

MONOBEAM_STEPS(Adagrad)
MONOBEAM_STEPS(RowwiseAdagrad)
MONOBEAM_STEPS(RmsProp)
MONOBEAM_STEPS(Adadelta)

}  // namespace

Kinds adagrad_kinds() {
  return {{"adagrad", make<Adagrad>},
          {"rowwise_adagrad", make<RowwiseAdagrad>},
          {"rmsprop", make<RmsProp>},
          {"adadelta", make<Adadelta>}};
}

}  // namespace monobeam
