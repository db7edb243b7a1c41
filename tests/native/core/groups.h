#pragma once

#include <string>

namespace monobeam {

// The memory that control groups leave, of either version.
void memory_of_groups(const std::string& folder);

}  // namespace monobeam
