// What happens to the gradient of a row before an optimizer sees it.
#pragma once

#include <memory>

#include "hyper.h"
#include "optimizers.h"

namespace monobeam {

// Three hyper-parameters of every optimizer, in the order in which they work; 0 is off:
//   clip_value    each component is clipped to [-clip_value, clip_value]
//   clip_norm     the gradient is scaled down to this L2 norm (Pascanu, Mikolov, Bengio 2013)
//   weight_decay  weight_decay w is added (L2 regularization); not here if the optimizer has read it for itself
// Gives back the optimizer itself if all are off, so that they cost nothing.
std::unique_ptr<Optimizer> with_transformed_gradients(HyperReader& hyper, std::unique_ptr<Optimizer> optimizer);

}  // namespace monobeam
