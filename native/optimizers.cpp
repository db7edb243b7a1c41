#include "optimizers.h"

#include <stdexcept>

#include "gradient_transform.h"
#include "kernel.h"

namespace monobeam {
namespace {

Kinds all_kinds() {
  Kinds all;
  for (const Kinds& some : {sgd_kinds(), adagrad_kinds(), adam_kinds(), ftrl_kinds()}) {
    all.insert(some.begin(), some.end());
  }
  return all;
}

}  // namespace

std::unique_ptr<Optimizer> make_optimizer(const std::string& name, const Hyper& given) {
  static const Kinds kinds = all_kinds();
  const auto kind = kinds.find(name);
  if (kind == kinds.end()) {
    std::string allowed;
    for (const auto& entry : kinds) allowed += (allowed.empty() ? "" : ", ") + entry.first;
    throw std::invalid_argument("unknown optimizer '" + name + "'; allowed: " + allowed);
  }
  HyperReader hyper(name, given);
  auto optimizer = with_transformed_gradients(hyper, kind->second(hyper));
  hyper.finish();
  return optimizer;
}

}  // namespace monobeam
