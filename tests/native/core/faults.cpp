#include "faults.h"

#include <cstdlib>
#include <functional>
#include <new>

#include "expect.h"
#include "table.h"

namespace {

// Allocations that still succeed in this thread; negative: all.
thread_local long left = -1;
thread_local bool failed = false;

void* take(std::size_t size) {
  if (left == 0) {
    failed = true;
    throw std::bad_alloc();
  }
  if (left > 0) --left;
  void* memory = std::malloc(size > 0 ? size : 1);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

}  // namespace

// Not inlined: gcc would take malloc() and free() in them for a mistake.
#define MONOBEAM_APART __attribute__((noinline))
MONOBEAM_APART void* operator new(std::size_t size) { return take(size); }
MONOBEAM_APART void* operator new[](std::size_t size) { return take(size); }
MONOBEAM_APART void operator delete(void* memory) noexcept { std::free(memory); }
MONOBEAM_APART void operator delete[](void* memory) noexcept { std::free(memory); }
MONOBEAM_APART void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
MONOBEAM_APART void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }

namespace monobeam {
namespace {

using Keys = std::vector<uint64_t>;

constexpr size_t kDim = 4, kKeys = 400;

// Rows, pending keys, counts of more than 14 bits, overflowing keys, erased ones, a full chunk.
std::unique_ptr<Table> some_table(RowFormat format) {
  auto table = std::make_unique<Table>(TableOptions{kDim, "adagrad", {}, 7, 0.5f, 1 << 20, format});
  table->set_policy(0, {2, 1, 40});
  Keys keys(kKeys);
  for (size_t i = 0; i < kKeys; ++i) keys[i] = (i & 1) << 48 | i;
  std::vector<uint32_t> handles(kKeys);
  table->find_or_insert(span(keys), 10, handles.data());
  std::vector<uint32_t> many(40000, handles[1]);
  const std::vector<float> gradients(many.size() * kDim, 0.25f);
  table->apply_pooled(span(many), {nullptr, 0}, gradients.data(), 0.1f);
  table->erase({keys.data() + 3, 5});
  return table;
}

struct Call {
  const char* name;
  std::function<void(Table&)> make;
};

// The key with this hash.
uint64_t key_of(uint64_t hash) {
  const auto unshift = [](uint64_t x, int by) { return x ^ x >> by ^ x >> 2 * by; };
  hash = unshift(hash, 31) * 0x319642b2d24d8ec3;
  hash = unshift(hash, 27) * 0x96de1b173f119089;
  return unshift(hash, 30) - kGolden;
}

// Old and new ones, and some that agree in both their buckets, so that they overflow.
Keys call_keys() {
  Keys keys;
  for (uint64_t i = 0; i < 600; ++i) keys.push_back(i % 3 << 48 | (i * 7 % 500));
  for (uint64_t i = 0; i < 20; ++i) {
    keys.push_back(key_of(i << 52 | uint64_t{5} << 32 | i << 20 | 9));
    EXPECT(Buckets::hash(keys.back()) << 44 == uint64_t{9} << 44);
  }
  return keys;
}

std::vector<Call> calls(const std::string& folder) {
  const Keys keys = call_keys();
  const auto sight = [keys](Table& table) {
    std::vector<uint32_t> handles(keys.size());
    table.find_or_insert(span(keys), 30, handles.data());
  };
  return {
      {"find_or_insert", sight},
      {"apply",
       [keys](Table& table) {
         std::vector<uint32_t> handles(keys.size());
         table.find(span(keys), handles.data());
         handles.resize(60000, handles[1]);  // more than 14 bits of updates
         const std::vector<float> gradients(handles.size() * kDim, 0.5f);
         table.apply_pooled(span(handles), {nullptr, 0}, gradients.data(), 0.1f);
       }},
      {"import_rows",
       [keys](Table& table) {
         std::vector<uint8_t> rows(keys.size() * table.row_bytes());
         for (size_t i = 0; i < keys.size(); ++i) rows[(i + 1) * table.row_bytes() - 6] = 1;  // 65536 updates
         table.import_rows(span(keys), rows.data());
       }},
      {"import_values",
       [keys](Table& table) {
         const std::vector<float> values(keys.size() * kDim, 2.0f);
         table.import_values(span(keys), values.data());
       }},
      {"erase", [keys](Table& table) { table.erase(span(keys)); }},
      {"expire", [](Table& table) { table.expire(1000, 1 << 20); }},
      {"expire_keys", [keys](Table& table) { table.expire_keys(span(keys), 1000); }},
      {"clear_touched", [](Table& table) { table.clear_touched(); }},
      {"set_policy", [](Table& table) { table.set_policy(5, {1, 0.5, 7}); }},
      {"lists",
       [](Table& table) {
         table.keys();
         table.touched();
         table.expired();
       }},
      {"lookup_pooled",
       [keys](Table& table) {
         const std::vector<int64_t> offsets = {0, 100, static_cast<int64_t>(keys.size())};
         std::vector<float> out(2 * kDim);
         table.lookup_pooled(span(keys), span(offsets), out.data());
       }},
      {"save", [folder](Table& table) { table.save(folder + "/fault"); }},
      {"load", [folder](Table&) { Table::load(folder + "/whole"); }},
  };
}

// Whatever happened, the table is a whole one: it says so, and so does a table that is read from its file.
void expect_unharmed(const Table& table, const std::string& folder) {
  table.check();
  table.save(folder + "/after");
  EXPECT(Table::load(folder + "/after")->keys() == table.keys());
}

// True if the call came to its end.
bool call_with(long allocations, const Call& call, Table& table) {
  left = allocations;
  failed = false;
  bool thrown = false;
  try {
    call.make(table);
  } catch (const std::bad_alloc&) {
    thrown = true;
  }
  left = -1;
  EXPECT(!thrown || failed);
  return !failed;
}

void fail_alone(const Call& call, RowFormat format, const std::string& folder) {
  for (long allocations = 0, ended = 0; ended == 0; allocations += 1 + allocations / 40) {
    const std::unique_ptr<Table> table = some_table(format);
    ended = call_with(allocations, call, *table);
    EXPECT(!file_exists(folder + "/fault.draft"));
    expect_unharmed(*table, folder);
  }
}

// Beside a save, what changes is put aside; where there is no room for that, the save fails, and the change does not.
void fail_beside_a_save(const Call& call, RowFormat format, const std::string& folder) {
  const std::string path = folder + "/busy";
  for (long allocations = 0, ended = 0; ended == 0; allocations += 1 + allocations / 40) {
    const std::unique_ptr<Table> table = some_table(format);
    table->save(folder + "/quiet");
    std::remove(path.c_str());
    bool saved = true;
    try {
      table->save(path, [&](uint64_t done, uint64_t all) {
        if (done < all) ended = call_with(allocations, call, *table);
      });
    } catch (const std::bad_alloc&) {
      saved = false;
    }
    EXPECT(file_exists(path) == saved);
    EXPECT(!file_exists(path + ".draft"));
    if (saved) EXPECT(content_of(path) == content_of(folder + "/quiet"));
    expect_unharmed(*table, folder);
  }
}

}  // namespace

void every_allocation_fails(const std::string& folder) {
  some_table(RowFormat::kFp32)->save(folder + "/whole");
  for (const RowFormat format : {RowFormat::kFp32, RowFormat::kFp16}) {
    for (const Call& call : calls(folder)) {
      fail_alone(call, format, folder);
      if (std::string(call.name) != "save") fail_beside_a_save(call, format, folder);
    }
  }
}

}  // namespace monobeam
