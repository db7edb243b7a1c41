#pragma once

#include <string>

namespace monobeam {

// Readers, snapshots and saves beside a table that grows, expires and learns all along; tables that share a room.
void threads_beside_each_other(const std::string& folder);

}  // namespace monobeam
