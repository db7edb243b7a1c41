#pragma once

#include <string>

namespace monobeam {

// Lets each allocation of each call fail in turn: std::bad_alloc, and a table that is unharmed.
void every_allocation_fails(const std::string& folder);

}  // namespace monobeam
