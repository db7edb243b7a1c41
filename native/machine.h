// What the machine has.
#pragma once

#include <cstdint>
#include <string>

namespace monobeam {

// Bytes of memory that this process may use at most: of the machine, or less where a control group (a container) says
// so. `root` is where /proc and /sys are.
uint64_t memory_of_machine(const std::string& root = "");

}  // namespace monobeam
