// Follow the regularized leader: weights that are exactly 0 unless there is reason for another value.
#include <algorithm>
#include <cmath>

#include "kernel.h"

namespace monobeam {
namespace {

// What both have in common. The quadratic part of a step is 1/rate of this step less 1/rate of the one before, where
// the rate of a component is learning rate / (beta + sqrt(n)): it sums up to 1/rate whatever the learning rate does in
// between, and without l1 and l2 a step is Adagrad's. (Algorithm 1 of McMahan et al. 2013 is for a learning rate that
// never changes: with it, halving the rate would halve all weights.)
// State: z, n, the learning rate of the last step (0: none yet).
struct Proximal {
  explicit Proximal(HyperReader& hyper)
      : beta(hyper.non_negative("beta", 1)),
        l1(hyper.non_negative("l1", 0)),
        l2(hyper.non_negative("l2", 0)),
        initial(hyper.non_negative("initial_accumulator", 0.1)) {
    if (beta + l2 + initial == 0) throw hyper.divides_by_zero("beta, l2 and initial_accumulator");
  }

  static size_t state_floats(size_t dim) { return 2 * dim + 1; }

  void init(float* state, size_t dim) const {
    std::fill_n(state, dim, 0.0f);
    std::fill_n(state + dim, dim, initial);
    state[2 * dim] = 0;
  }

  // How much 1/rate has grown, apart from what n has grown, if multiplied by beta + sqrt(n); keeps the learning rate.
  MONOBEAM_INLINE static float change(float* last_rate, float lr) {
    const float last = *last_rate;
    *last_rate = lr;
    return last == 0 ? 0 : 1 / lr - 1 / last;
  }

  // One component of a step. Gives the weight that is best for z, apart from group penalties.
  MONOBEAM_INLINE float step(float w, float g, float& z, float& n, float lr, float change) const {
    const float before = std::sqrt(n);
    n += g * g;
    const float root = std::sqrt(n);
    const float sigma = (root - before) / lr + (beta + before) * change;
    z += g - sigma * w;
    const float quotient = shrunk(z) / ((beta + root) / lr + l2);
    return shrunk(z) == 0 ? 0.0f : -quotient;
  }

  // z without what l1 takes from it.
  MONOBEAM_INLINE float shrunk(float z) const { return z - std::min(std::max(z, -l1), l1); }

  float beta, l1, l2, initial;
};

// FTRL-proximal (McMahan et al. 2013). The weight is a function of the state and the learning rate alone after the
// first step, so a table for it usually has init_scale 0.
class Ftrl final : public Optimizer {
 public:
  explicit Ftrl(HyperReader& hyper) : proximal_(hyper) {}
  bool divides_by_rate() const override { return true; }
  size_t state_floats(size_t dim) const override { return Proximal::state_floats(dim); }
  void init(float* state, size_t dim) const override { proximal_.init(state, dim); }
  void steps(const Steps& batch) const noexcept override;
  MONOBEAM_INLINE void step(float* __restrict w, float* __restrict state, const float* __restrict g, size_t dim,
                            float lr) const {
    float* z = state;
    float* n = state + dim;
    const float change = Proximal::change(state + 2 * dim, lr);
    MONOBEAM_DISTINCT
    for (size_t i = 0; i < dim; ++i) w[i] = proximal_.step(w[i], g[i], z[i], n[i], lr, change);
  }

 private:
  Proximal proximal_;
};

// FTRL-proximal with a group lasso: rows whose z has a small norm are 0 as a whole. It is Group Adagrad of Yue et al.
// 2021 (Adaptive Optimizers with Sparse Group Lasso for Neural Networks in CTR Prediction, algorithm 1), whose penalty
// is l21 sqrt(dim) ||A^(1/2) w||, 2 A = 1/rate + l2 by component: only for it there is a closed form. l1, l21 and l2
// are sparse group lasso and ridge.
class GroupFtrl final : public Optimizer {
 public:
  explicit GroupFtrl(HyperReader& hyper) : proximal_(hyper), l21_(hyper.non_negative("l21", 0)) {}
  bool divides_by_rate() const override { return true; }
  size_t state_floats(size_t dim) const override { return Proximal::state_floats(dim); }
  void init(float* state, size_t dim) const override { proximal_.init(state, dim); }
  void steps(const Steps& batch) const noexcept override;
  MONOBEAM_INLINE void step(float* __restrict w, float* __restrict state, const float* __restrict g, size_t dim,
                            float lr) const {
    float* z = state;
    float* n = state + dim;
    const float change = Proximal::change(state + 2 * dim, lr);
    MONOBEAM_DISTINCT
    for (size_t i = 0; i < dim; ++i) w[i] = proximal_.step(w[i], g[i], z[i], n[i], lr, change);
    float half_square = 0;  // of the norm of A^(-1/2) z
    for (size_t i = 0; i < dim; ++i) half_square -= proximal_.shrunk(z[i]) * w[i];
    const float norm = std::sqrt(2 * half_square);
    const float penalty = l21_ * std::sqrt(static_cast<float>(dim));
    const float keep = norm <= penalty ? 0 : 1 - penalty / norm;
    for (size_t i = 0; i < dim; ++i) w[i] = keep == 0 ? 0.0f : keep * w[i];
  }

 private:
  Proximal proximal_;
  float l21_;
};

MONOBEAM_STEPS(Ftrl)
MONOBEAM_STEPS(GroupFtrl)

}  // namespace

Kinds ftrl_kinds() { return {{"ftrl", make<Ftrl>}, {"group_ftrl", make<GroupFtrl>}}; }

}  // namespace monobeam
