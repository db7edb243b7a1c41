// Random calls on a table and on its twin, compared call by call.
#pragma once

#include <memory>
#include <random>
#include <string>
#include <unordered_map>

#include "twin.h"

namespace monobeam {

// What the calls are like.
struct FuzzPlan {
  const char* name;
  TableOptions options;
  uint64_t keys;        // that there are
  uint64_t most_keys;   // in one call
  uint64_t calls;       // of 1000 in all
  bool policies = true;  // admission and expiry; without them, memory_limit decides who gets a row
};

class Fuzz {
 public:
  Fuzz(const FuzzPlan& plan, const std::string& folder);

  // One call after another.
  void run(uint64_t calls);

  uint64_t calls() const { return calls_; }

 private:
  static constexpr float kRate = 0.125f;

  void call();
  void change();
  void read();
  void whole();

  void sight();
  void train();
  void import_rows();
  void import_values();
  void erase();
  void expire();
  void reserve();
  void expire_keys();
  void set_policy();
  void lookup();
  void gather();
  void pooled();
  void export_rows();
  void look_at_stale_handles();
  void snapshots();
  void clear();
  void reload();
  void save_beside_changes();

  uint64_t random(uint64_t below) { return engine_() % below; }
  bool on_grid() const { return plan_.options.format != RowFormat::kFp32; }
  size_t dim() const { return plan_.options.dim; }
  Keys some_keys();
  Floats some_values(size_t rows);
  Floats some_gradients(size_t rows);
  std::vector<int64_t> some_bags(size_t keys);
  std::vector<uint32_t> find(const Keys& keys);
  void learn_handle(uint64_t key, uint32_t handle);
  void forget_handle(uint64_t key);
  void compare(const Keys& keys);
  void check();

  const FuzzPlan plan_;
  const std::string folder_;
  std::mt19937_64 engine_{42};
  uint32_t now_ = 1000;
  uint64_t calls_ = 0;
  bool saving_ = false;
  std::unique_ptr<Table> table_;
  Twin twin_;
  std::unordered_map<uint32_t, uint64_t> owners_;  // of handles
  uint32_t most_handle_ = 0;
};

}  // namespace monobeam
