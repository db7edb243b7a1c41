#include "optimizers.h"

#include <cmath>
#include <functional>
#include <stdexcept>

#include "widths.h"

// A step is written once and compiled for several widths of vectors.
#define MONOBEAM_STEPS(Kind)                                                              \
  MONOBEAM_WIDTHS void steps_of(const Kind& optimizer, const Steps& batch) {              \
    for (size_t i = 0; i < batch.count; ++i) {                                            \
      optimizer.step(batch.weights[i], batch.states[i], batch.gradients[i], batch.dim, batch.learning_rate); \
    }                                                                                     \
  }                                                                                       \
  void Kind::steps(const Steps& batch) const { steps_of(*this, batch); }

namespace monobeam {
namespace {

// Hyper-parameters by name with default and allowed range; complains about names that nobody asked for.
class HyperReader {
 public:
  HyperReader(const std::string& optimizer, const Hyper& given) : optimizer_(optimizer), left_(given) {}

  float non_negative(const std::string& name, double fallback) {
    return read(name, fallback, "finite and >= 0", [](double value) { return std::isfinite(value) && value >= 0; });
  }
  float positive(const std::string& name, double fallback) {
    return read(name, fallback, "finite and > 0", [](double value) { return std::isfinite(value) && value > 0; });
  }
  double fraction(const std::string& name, double fallback) {
    return read(name, fallback, "in [0, 1)", [](double value) { return value >= 0 && value < 1; });
  }

  void finish() const {
    if (left_.empty()) return;
    std::string allowed;
    for (const auto& name : asked_) allowed += (allowed.empty() ? "" : ", ") + name.first;
    throw std::invalid_argument("optimizer " + optimizer_ + " has no hyper-parameter '" + left_.begin()->first +
                                "'; allowed: " + (allowed.empty() ? "none" : allowed));
  }

 private:
  double read(const std::string& name, double fallback, const char* range, const std::function<bool(double)>& allowed) {
    asked_[name] = fallback;
    const auto found = left_.find(name);
    if (found == left_.end()) return fallback;
    const double value = found->second;
    if (!allowed(value)) {
      throw std::invalid_argument("hyper-parameter " + name + "=" + std::to_string(value) + " of optimizer " +
                                  optimizer_ + " must be " + range);
    }
    left_.erase(found);
    return value;
  }

  std::string optimizer_;
  Hyper left_;
  Hyper asked_;
};

class Sgd final : public Optimizer {
 public:
  explicit Sgd(HyperReader&) {}
  size_t state_floats(size_t) const override { return 0; }
  void init(float*, size_t) const override {}
  void steps(const Steps& batch) const override;
  MONOBEAM_INLINE void step(float* __restrict w, float* __restrict, const float* __restrict g, size_t dim, float lr) const {
    for (size_t i = 0; i < dim; ++i) w[i] -= lr * g[i];
  }
};

// Polyak's momentum as torch writes it: v = m v + g, w -= lr v.
class Momentum final : public Optimizer {
 public:
  explicit Momentum(HyperReader& hyper) : momentum_(hyper.fraction("momentum", 0.9)) {}
  size_t state_floats(size_t dim) const override { return dim; }
  void init(float* v, size_t dim) const override {
    for (size_t i = 0; i < dim; ++i) v[i] = 0;
  }
  void steps(const Steps& batch) const override;
  MONOBEAM_INLINE void step(float* __restrict w, float* __restrict v, const float* __restrict g, size_t dim, float lr) const {
    for (size_t i = 0; i < dim; ++i) {
      v[i] = momentum_ * v[i] + g[i];
      w[i] -= lr * v[i];
    }
  }

 private:
  float momentum_;
};

// Duchi, Hazan, Singer 2011. State: n, the sum of squared gradients.
class Adagrad final : public Optimizer {
 public:
  explicit Adagrad(HyperReader& hyper)
      : initial_(hyper.non_negative("initial_accumulator", 0.1)),
        epsilon_(hyper.non_negative("epsilon", 0)),
        decay_(hyper.non_negative("weight_decay", 0)) {
    if (initial_ + epsilon_ == 0) {
      throw std::invalid_argument("adagrad divides by 0 if initial_accumulator and epsilon are both 0");
    }
  }
  size_t state_floats(size_t dim) const override { return dim; }
  void init(float* n, size_t dim) const override {
    for (size_t i = 0; i < dim; ++i) n[i] = initial_;
  }
  void steps(const Steps& batch) const override;
  MONOBEAM_INLINE void step(float* __restrict w, float* __restrict n, const float* __restrict g, size_t dim, float lr) const {
    for (size_t i = 0; i < dim; ++i) {
      const float gradient = decay_ == 0 ? g[i] : g[i] + decay_ * w[i];
      n[i] += gradient * gradient;
      w[i] -= lr * gradient / (std::sqrt(n[i]) + epsilon_);
    }
  }

 private:
  float initial_, epsilon_, decay_;
};

// Adagrad with one n per row, the sum of the mean squared gradients (as in DLRM).
class RowwiseAdagrad final : public Optimizer {
 public:
  explicit RowwiseAdagrad(HyperReader& hyper)
      : initial_(hyper.non_negative("initial_accumulator", 0.1)),
        epsilon_(hyper.non_negative("epsilon", 0)),
        decay_(hyper.non_negative("weight_decay", 0)) {
    if (initial_ + epsilon_ == 0) {
      throw std::invalid_argument("rowwise_adagrad divides by 0 if initial_accumulator and epsilon are both 0");
    }
  }
  size_t state_floats(size_t) const override { return 1; }
  void init(float* n, size_t) const override { *n = initial_; }
  void steps(const Steps& batch) const override;
  MONOBEAM_INLINE void step(float* __restrict w, float* __restrict n, const float* __restrict g, size_t dim, float lr) const {
    if (dim == 0) return;
    float sum = 0;
    for (size_t i = 0; i < dim; ++i) {
      const float gradient = with_decay(g[i], w[i]);
      sum += gradient * gradient;
    }
    *n += sum / static_cast<float>(dim);
    const float denominator = std::sqrt(*n) + epsilon_;
    for (size_t i = 0; i < dim; ++i) w[i] -= lr * with_decay(g[i], w[i]) / denominator;
  }

 private:
  MONOBEAM_INLINE float with_decay(float g, float w) const { return decay_ == 0 ? g : g + decay_ * w; }

  float initial_, epsilon_, decay_;
};

// Kingma, Ba 2015, with a step count per row: a row that is rarely seen gets its own bias correction.
// State: m, v, steps (a float: exact up to 2^24 steps, where the correction is long 1).
class Adam final : public Optimizer {
 public:
  explicit Adam(HyperReader& hyper)
      : beta1_(hyper.fraction("beta1", 0.9)),
        beta2_(hyper.fraction("beta2", 0.999)),
        epsilon_(hyper.positive("epsilon", 1e-8)) {}
  size_t state_floats(size_t dim) const override { return 2 * dim + 1; }
  void init(float* state, size_t dim) const override {
    for (size_t i = 0; i < state_floats(dim); ++i) state[i] = 0;
  }
  void steps(const Steps& batch) const override;
  MONOBEAM_INLINE void step(float* __restrict w, float* __restrict state, const float* __restrict g, size_t dim, float lr) const {
    float* m = state;
    float* v = state + dim;
    float& steps = state[2 * dim];
    steps += 1;
    const uint32_t t = static_cast<uint32_t>(steps);
    const float correction1 = static_cast<float>(1 - power(beta1_, t));
    const float correction2 = static_cast<float>(1 - power(beta2_, t));
    const float b1 = static_cast<float>(beta1_), c1 = static_cast<float>(1 - beta1_);
    const float b2 = static_cast<float>(beta2_), c2 = static_cast<float>(1 - beta2_);
    for (size_t i = 0; i < dim; ++i) {
      m[i] = b1 * m[i] + c1 * g[i];
      v[i] = b2 * v[i] + c2 * (g[i] * g[i]);
      w[i] -= lr * (m[i] / correction1) / (std::sqrt(v[i] / correction2) + epsilon_);
    }
  }

 private:
  // By squaring: std::pow may differ in the last bit between C libraries.
  MONOBEAM_INLINE static double power(double base, uint32_t exponent) {
    double result = 1;
    for (; exponent > 0; exponent >>= 1, base *= base) {
      if (exponent & 1) result *= base;
    }
    return result;
  }

  double beta1_, beta2_;
  float epsilon_;
};

// FTRL-proximal (McMahan et al. 2013, algorithm 1) with alpha = learning rate. State: z, n. The weight is a function of
// z and n alone after the first step, so a table for it usually has init_scale 0.
class Ftrl final : public Optimizer {
 public:
  explicit Ftrl(HyperReader& hyper)
      : beta_(hyper.non_negative("beta", 1)),
        l1_(hyper.non_negative("l1", 0)),
        l2_(hyper.non_negative("l2", 0)),
        initial_(hyper.non_negative("initial_accumulator", 0.1)) {
    if (beta_ + l2_ + initial_ == 0) {
      throw std::invalid_argument("ftrl divides by 0 if beta, l2 and initial_accumulator are all 0");
    }
  }
  bool divides_by_rate() const override { return true; }
  size_t state_floats(size_t dim) const override { return 2 * dim; }
  void init(float* state, size_t dim) const override {
    for (size_t i = 0; i < dim; ++i) state[i] = 0;
    for (size_t i = 0; i < dim; ++i) state[dim + i] = initial_;
  }
  void steps(const Steps& batch) const override;
  MONOBEAM_INLINE void step(float* __restrict w, float* __restrict state, const float* __restrict g, size_t dim, float lr) const {
    float* z = state;
    float* n = state + dim;
    for (size_t i = 0; i < dim; ++i) {
      const float grown = n[i] + g[i] * g[i];
      const float sigma = (std::sqrt(grown) - std::sqrt(n[i])) / lr;
      z[i] += g[i] - sigma * w[i];
      n[i] = grown;
      const float shrunk = z[i] > l1_ ? z[i] - l1_ : z[i] < -l1_ ? z[i] + l1_ : 0.0f;
      w[i] = shrunk == 0 ? 0.0f : -shrunk / ((beta_ + std::sqrt(n[i])) / lr + l2_);
    }
  }

 private:
  float beta_, l1_, l2_, initial_;
};

// Tieleman, Hinton 2012. State: n, the moving average of squared gradients.
class RmsProp final : public Optimizer {
 public:
  explicit RmsProp(HyperReader& hyper)
      : decay_(hyper.fraction("decay", 0.9)), epsilon_(hyper.positive("epsilon", 1e-8)) {}
  size_t state_floats(size_t dim) const override { return dim; }
  void init(float* n, size_t dim) const override {
    for (size_t i = 0; i < dim; ++i) n[i] = 0;
  }
  void steps(const Steps& batch) const override;
  MONOBEAM_INLINE void step(float* __restrict w, float* __restrict n, const float* __restrict g, size_t dim, float lr) const {
    const float keep = static_cast<float>(decay_), take = static_cast<float>(1 - decay_);
    for (size_t i = 0; i < dim; ++i) {
      n[i] = keep * n[i] + take * (g[i] * g[i]);
      w[i] -= lr * g[i] / (std::sqrt(n[i]) + epsilon_);
    }
  }

 private:
  double decay_;
  float epsilon_;
};

MONOBEAM_STEPS(Sgd)
MONOBEAM_STEPS(Momentum)
MONOBEAM_STEPS(Adagrad)
MONOBEAM_STEPS(RowwiseAdagrad)
MONOBEAM_STEPS(Adam)
MONOBEAM_STEPS(Ftrl)
MONOBEAM_STEPS(RmsProp)

template <typename Kind>
std::unique_ptr<Optimizer> make(HyperReader& hyper) {
  return std::make_unique<Kind>(hyper);
}

}  // namespace

std::unique_ptr<Optimizer> make_optimizer(const std::string& name, const Hyper& given) {
  static const std::map<std::string, std::unique_ptr<Optimizer> (*)(HyperReader&)> kinds = {
      {"adagrad", make<Adagrad>}, {"adam", make<Adam>},       {"ftrl", make<Ftrl>},
      {"momentum", make<Momentum>}, {"rmsprop", make<RmsProp>}, {"rowwise_adagrad", make<RowwiseAdagrad>},
      {"sgd", make<Sgd>},
  };
  const auto kind = kinds.find(name);
  if (kind == kinds.end()) {
    std::string allowed;
    for (const auto& entry : kinds) allowed += (allowed.empty() ? "" : ", ") + entry.first;
    throw std::invalid_argument("unknown optimizer '" + name + "'; allowed: " + allowed);
  }
  HyperReader hyper(name, given);
  auto optimizer = kind->second(hyper);
  hyper.finish();
  return optimizer;
}

}  // namespace monobeam
