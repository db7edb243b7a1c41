// The table against a twin of maps, out of memory, and among threads: a program of its own, so that it can be built
// with sanitizers (see test_core.py). Prints how many calls it made on a table and on its twin; exits with 1 and says
// where at the first difference.
#include <cstdlib>

#include "faults.h"
#include "fuzz.h"
#include "groups.h"
#include "invariants.h"
#include "threads.h"

using namespace monobeam;

namespace {

TableOptions options(uint32_t dim, const char* optimizer, RowFormat format, uint64_t memory_limit = 0) {
  const float scale = format == RowFormat::kFp32 ? 0.5f : 0.0f;
  return {dim, optimizer, {}, 7, scale, 1 << 20, format, memory_limit};
}

TableOptions few_wait(TableOptions options, uint64_t pending_limit) {
  options.pending_limit = pending_limit;
  return options;
}

TableOptions clipped(TableOptions options) {
  options.hyper = {{"clip_value", 1.5}, {"clip_norm", 2}, {"weight_decay", 0.125}};
  return options;
}

}  // namespace

int main(int count, char** arguments) {
  EXPECT(count == 3);
  const std::string folder = arguments[1];
  const uint64_t calls = std::strtoull(arguments[2], nullptr, 10);
  const FuzzPlan plans[] = {
      {"fp32", options(3, "adam", RowFormat::kFp32), 300, 6, 200},
      {"fp32, few may wait", few_wait(options(2, "sgd", RowFormat::kFp32), 5), 300, 6, 40},
      {"fp32, nobody may wait", few_wait(options(1, "sgd", RowFormat::kFp32), 0), 300, 6, 4},
      {"fp32, gradients transformed", clipped(options(9, "adagrad", RowFormat::kFp32)), 300, 6, 50},
      {"fp32, state for a row", options(5, "rowwise_adagrad", RowFormat::kFp32), 60, 12, 150},
      {"fp16", options(5, "sgd", RowFormat::kFp16), 200, 6, 150},
      {"bf16", options(4, "sgd", RowFormat::kBf16), 200, 6, 150},
      {"int8", options(6, "sgd", RowFormat::kInt8), 200, 6, 99},
      {"a set", options(0, "sgd", RowFormat::kFp32), 1000, 6, 110},
      {"a full index", options(1, "sgd", RowFormat::kFp32, (1 << 20) + (1 << 15)), 3000, 40, 40, false},
      {"many keys in a call", options(2, "momentum", RowFormat::kFp32), 60000, 5000, 1},
      {"wide rows", options(2000, "ftrl", RowFormat::kFp32), 100, 80, 1},
      {"full of rows", options(8192, "sgd", RowFormat::kFp32, (4 << 20) + (1 << 16)), 200, 6, 5, false},
  };
  uint64_t done = 0;
  for (const FuzzPlan& plan : plans) {
    Fuzz fuzz(plan, folder);
    fuzz.run((calls * plan.calls + 999) / 1000);
    done += fuzz.calls();
    std::printf("%s: %llu calls\n", plan.name, static_cast<unsigned long long>(fuzz.calls()));
    std::fflush(stdout);
  }
#if !defined(__SANITIZE_THREAD__)
  every_allocation_fails(folder);  // in one thread
#endif
  threads_beside_each_other(folder);
  memory_of_groups(folder);
  broken_invariants_are_noticed();
  std::printf("calls %llu\n", static_cast<unsigned long long>(done));
}
