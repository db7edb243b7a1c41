#include "machine.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>

namespace monobeam {
namespace {

// A limit is a number in a file; where there is none, there is no file or a word in it.
uint64_t limit_in(const std::string& path) {
  uint64_t limit = 0;
  return std::ifstream(path) >> limit ? limit : ~uint64_t{0};
}

// Of a group and of those that it is in, up to where they are mounted.
uint64_t limit_of_group(const std::string& mounted, std::string group, const char* file) {
  uint64_t limit = limit_in(mounted + "/" + file);
  for (; group.size() > 1; group.erase(group.rfind('/'))) {
    limit = std::min(limit, limit_in(mounted + group + "/" + file));
  }
  return limit;
}

}  // namespace

uint64_t memory_of_machine(const std::string& root) {
  uint64_t most = static_cast<uint64_t>(sysconf(_SC_PHYS_PAGES)) * static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
  const std::string groups = root + "/sys/fs/cgroup";
  std::ifstream own(root + "/proc/self/cgroup");
  for (std::string line; std::getline(own, line);) {  // number:controllers:group, without controllers in version 2
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (second == std::string::npos || line[second + 1] != '/') continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), group = line.substr(second + 1);
    if (controllers.empty()) most = std::min(most, limit_of_group(groups, group, "memory.max"));
    if (controllers == "memory") {
      most = std::min(most, limit_of_group(groups + "/memory", group, "memory.limit_in_bytes"));
    }
  }
  return most;
}

}  // namespace monobeam
