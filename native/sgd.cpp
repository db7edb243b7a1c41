// Gradient descent, plain and with momentum.
#include <algorithm>

#include "kernel.h"

namespace monobeam {
namespace {

class Sgd final : public Optimizer {
 public:
  explicit Sgd(HyperReader&) {}
  size_t state_floats(size_t) const override { return 0; }
  void init(float*, size_t) const override {}
  void steps(const Steps& batch) const noexcept override;
  MONOBEAM_INLINE void step(float* __restrict w, float* __restrict, const float* __restrict g, size_t dim,
                            float lr) const {
    for (size_t i = 0; i < dim; ++i) w[i] -= lr * g[i];
  }
};

// Polyak's momentum as torch writes it: v = m v + g, w -= lr v; Nesterov's (Sutskever et al. 2013): w -= lr (g + m v).
class Momentum final : public Optimizer {
 public:
  explicit Momentum(HyperReader& hyper)
      : momentum_(static_cast<float>(hyper.fraction("momentum", 0.9))), nesterov_(hyper.flag("nesterov")) {}
  size_t state_floats(size_t dim) const override { return dim; }
  void init(float* v, size_t dim) const override { std::fill_n(v, dim, 0.0f); }
  void steps(const Steps& batch) const noexcept override;
  MONOBEAM_INLINE void step(float* __restrict w, float* __restrict v, const float* __restrict g, size_t dim,
                            float lr) const {
    if (nesterov_) {
      for (size_t i = 0; i < dim; ++i) {
        v[i] = momentum_ * v[i] + g[i];
        w[i] -= lr * (g[i] + momentum_ * v[i]);
      }
    } else {
      for (size_t i = 0; i < dim; ++i) {
        v[i] = momentum_ * v[i] + g[i];
        w[i] -= lr * v[i];
      }
    }
  }

 private:
  float momentum_;
  bool nesterov_;
};

MONOBEAM_STEPS(Sgd)
MONOBEAM_STEPS(Momentum)

}  // namespace

Kinds sgd_kinds() { return {{"sgd", make<Sgd>}, {"momentum", make<Momentum>}}; }

}  // namespace monobeam
