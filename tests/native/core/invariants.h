#pragma once

namespace monobeam {

// Tables say so when something is broken that no call can break.
void broken_invariants_are_noticed();

}  // namespace monobeam
