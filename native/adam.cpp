// Adam and its descendants, with a step count per row: a row that is rarely seen gets its own bias correction.
#include <algorithm>
#include <cmath>

#include "kernel.h"

namespace monobeam {
namespace {

// By squaring: std::pow may differ in the last bit between C libraries.
MONOBEAM_INLINE double power(double base, uint32_t exponent) {
  double result = 1;
  for (; exponent > 0; exponent >>= 1, base *= base) {
    if (exponent & 1) result *= base;
  }
  return result;
}

// The averages of gradients and of their squares, with weights beta, and what corrects them for having begun at 0.
struct Moments {
  explicit Moments(HyperReader& hyper)
      : beta1(hyper.fraction("beta1", 0.9)),
        beta2(hyper.fraction("beta2", 0.999)),
        epsilon(hyper.positive("epsilon", 1e-8)),
        keep1(static_cast<float>(beta1)),
        take1(static_cast<float>(1 - beta1)),
        keep2(static_cast<float>(beta2)),
        take2(static_cast<float>(1 - beta2)) {}

  MONOBEAM_INLINE float correction1(float steps) const { return correction(beta1, steps); }
  MONOBEAM_INLINE float correction2(float steps) const { return correction(beta2, steps); }

  double beta1, beta2;
  float epsilon, keep1, take1, keep2, take2;

 private:
  MONOBEAM_INLINE static float correction(double beta, float steps) {
    return static_cast<float>(1 - power(beta, static_cast<uint32_t>(steps)));
  }
};

// Kingma, Ba 2015. State: m, v, steps (a float: exact up to 2^24 steps, where the correction is long 1).
class Adam final : public Optimizer {
 public:
  explicit Adam(HyperReader& hyper) : moments_(hyper) {}
  size_t state_floats(size_t dim) const override { return 2 * dim + 1; }
  void init(float* state, size_t dim) const override { std::fill_n(state, 2 * dim + 1, 0.0f); }
  void steps(const Steps& batch) const noexcept override;
  MONOBEAM_INLINE void step(float* __restrict w, float* __restrict state, const float* __restrict g, size_t dim,
                            float lr) const {
    float* m = state;
    float* v = state + dim;
    const float steps = state[2 * dim] += 1;
    const float correction1 = moments_.correction1(steps), correction2 = moments_.correction2(steps);
    MONOBEAM_DISTINCT
    for (size_t i = 0; i < dim; ++i) {
      m[i] = moments_.keep1 * m[i] + moments_.take1 * g[i];
      v[i] = moments_.keep2 * v[i] + moments_.take2 * (g[i] * g[i]);
      w[i] -= lr * (m[i] / correction1) / (std::sqrt(v[i] / correction2) + moments_.epsilon);
    }
  }

 private:
  Moments moments_;
};

// Loshchilov, Hutter 2019: Adam, and weights decay by themselves, at the learning rate: w -= lr weight_decay w.
class AdamW final : public Optimizer {
 public:
  explicit AdamW(HyperReader& hyper) : decay_(hyper.non_negative("weight_decay", 0.01)), adam_(hyper) {}
  size_t state_floats(size_t dim) const override { return adam_.state_floats(dim); }
  void init(float* state, size_t dim) const override { adam_.init(state, dim); }
  void steps(const Steps& batch) const noexcept override;
  MONOBEAM_INLINE void step(float* __restrict w, float* __restrict state, const float* __restrict g, size_t dim,
                            float lr) const {
    const float keep = 1 - lr * decay_;
    for (size_t i = 0; i < dim; ++i) w[i] *= keep;
    adam_.step(w, state, g, dim, lr);
  }

 private:
  float decay_;
  Adam adam_;
};

// Reddi, Kale, Kumar 2018, with Adam's corrections, as torch has it. State: m, v, x (the largest v so far), steps.
class Amsgrad final : public Optimizer {
 public:
  explicit Amsgrad(HyperReader& hyper) : moments_(hyper) {}
  size_t state_floats(size_t dim) const override { return 3 * dim + 1; }
  void init(float* state, size_t dim) const override { std::fill_n(state, 3 * dim + 1, 0.0f); }
  void steps(const Steps& batch) const noexcept override;
  MONOBEAM_INLINE void step(float* __restrict w, float* __restrict state, const float* __restrict g, size_t dim,
                            float lr) const {
    float* m = state;
    float* v = state + dim;
    float* x = state + 2 * dim;
    const float steps = state[3 * dim] += 1;
    const float correction1 = moments_.correction1(steps), correction2 = moments_.correction2(steps);
    MONOBEAM_DISTINCT
    for (size_t i = 0; i < dim; ++i) {
      m[i] = moments_.keep1 * m[i] + moments_.take1 * g[i];
      v[i] = moments_.keep2 * v[i] + moments_.take2 * (g[i] * g[i]);
      x[i] = v[i] > x[i] ? v[i] : x[i];
      w[i] -= lr * (m[i] / correction1) / (std::sqrt(x[i] / correction2) + moments_.epsilon);
    }
  }

 private:
  Moments moments_;
};

MONOBEAM_STEPS(Adam)
MONOBEAM_STEPS(AdamW)
MONOBEAM_STEPS(Amsgrad)

}  // namespace

Kinds adam_kinds() { return {{"adam", make<Adam>}, {"adamw", make<AdamW>}, {"amsgrad", make<Amsgrad>}}; }

}  // namespace monobeam
