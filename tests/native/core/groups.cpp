#include "groups.h"

#include <filesystem>
#include <fstream>

#include "expect.h"
#include "machine.h"

namespace monobeam {
namespace {

void write(const std::filesystem::path& path, const std::string& text) {
  std::filesystem::create_directories(path.parent_path());
  std::ofstream(path) << text << "\n";
}

}  // namespace

void memory_of_groups(const std::string& folder) {
  const uint64_t machine = memory_of_machine(folder + "/nowhere");
  EXPECT(machine > 1 << 20);
  EXPECT(memory_of_machine() <= machine);

  const std::string second = folder + "/second", groups = second + "/sys/fs/cgroup";
  write(second + "/proc/self/cgroup", "0::/outer/inner");
  write(groups + "/outer/inner/memory.max", "max");
  EXPECT(memory_of_machine(second) == machine);
  write(groups + "/outer/memory.max", "70000");
  EXPECT(memory_of_machine(second) == 70000);
  write(groups + "/outer/inner/memory.max", "60000");
  EXPECT(memory_of_machine(second) == 60000);
  write(groups + "/memory.max", "50000");
  EXPECT(memory_of_machine(second) == 50000);

  const std::string first = folder + "/first";
  write(first + "/proc/self/cgroup", "9:cpu:/other\n4:memory:/job\n0::/");
  write(first + "/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712");
  EXPECT(memory_of_machine(first) == machine);
  write(first + "/sys/fs/cgroup/memory/job/memory.limit_in_bytes", "40000");
  EXPECT(memory_of_machine(first) == 40000);
}

}  // namespace monobeam
