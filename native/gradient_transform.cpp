#include "gradient_transform.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "kernel.h"

namespace monobeam {
namespace {

struct GradientTransform {
  float clip_value, clip_norm, weight_decay;

  bool nothing() const { return clip_value == 0 && clip_norm == 0 && weight_decay == 0; }

  MONOBEAM_INLINE void row(const float* __restrict w, const float* __restrict g, size_t dim,
                           float* __restrict out) const {
    std::copy(g, g + dim, out);
    if (clip_value != 0) {
      for (size_t i = 0; i < dim; ++i) {
        const float raised = out[i] < -clip_value ? -clip_value : out[i];  // what is not a number stays so
        out[i] = raised > clip_value ? clip_value : raised;
      }
    }
    if (clip_norm != 0) {
      double sum = 0;  // the square of a float may be too large for one, or too small
      for (size_t i = 0; i < dim; ++i) sum += static_cast<double>(out[i]) * out[i];
      const double norm = std::sqrt(sum);
      const float scale = norm > clip_norm ? static_cast<float>(clip_norm / norm) : 1;
      for (size_t i = 0; i < dim; ++i) out[i] *= scale;
    }
    if (weight_decay != 0) {
      for (size_t i = 0; i < dim; ++i) out[i] += weight_decay * w[i];
    }
  }
};

MONOBEAM_WIDTHS void transform_rows(const GradientTransform& transform, const Steps& batch, float* out) {
  const GradientTransform local = transform;
  for (size_t i = 0; i < batch.count; ++i) {
    local.row(batch.weights[i], batch.gradients[i], batch.dim, out + i * batch.dim);
  }
}

class TransformedGradients final : public Optimizer {
 public:
  TransformedGradients(const GradientTransform& transform, std::unique_ptr<Optimizer> optimizer)
      : transform_(transform), optimizer_(std::move(optimizer)) {}
  size_t state_floats(size_t dim) const override { return optimizer_->state_floats(dim); }
  void init(float* state, size_t dim) const override { optimizer_->init(state, dim); }
  bool divides_by_rate() const override { return optimizer_->divides_by_rate(); }
  size_t scratch_floats(size_t dim) const override { return dim; }
  void steps(const Steps& batch) const noexcept override {
    const float* gradients[Steps::kMost];
    for (size_t i = 0; i < batch.count; ++i) gradients[i] = batch.scratch + i * batch.dim;
    transform_rows(transform_, batch, batch.scratch);
    Steps transformed = batch;
    transformed.gradients = gradients;
    optimizer_->steps(transformed);
  }

 private:
  const GradientTransform transform_;
  const std::unique_ptr<Optimizer> optimizer_;
};

}  // namespace

std::unique_ptr<Optimizer> with_transformed_gradients(HyperReader& hyper, std::unique_ptr<Optimizer> optimizer) {
  const GradientTransform transform = {
      hyper.non_negative("clip_value", 0), hyper.non_negative("clip_norm", 0), hyper.non_negative("weight_decay", 0)};
  if (transform.nothing()) return optimizer;
  return std::make_unique<TransformedGradients>(transform, std::move(optimizer));
}

}  // namespace monobeam
