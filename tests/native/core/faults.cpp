#include "faults.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <functional>
#include <new>
#include <thread>

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

constexpr size_t kKeys = 400;

// The key with this hash.
uint64_t key_of(uint64_t hash) {
  const auto unshift = [](uint64_t x, int by) { return x ^ x >> by ^ x >> 2 * by; };
  hash = unshift(hash, 31) * 0x319642b2d24d8ec3;
  hash = unshift(hash, 27) * 0x96de1b173f119089;
  return unshift(hash, 30) - kGolden;
}

// They agree in both their buckets, so that most of them overflow.
Keys crowd(uint64_t from, uint64_t end) {
  Keys keys;
  for (uint64_t i = from; i < end; ++i) {
    keys.push_back(key_of(i << 52 | uint64_t{5} << 32 | i << 20 | 9));
    EXPECT(Buckets::hash(keys.back()) << 44 == uint64_t{9} << 44);
  }
  return keys;
}

Keys operator+(Keys keys, const Keys& more) {
  keys.insert(keys.end(), more.begin(), more.end());
  return keys;
}

struct Kind {
  uint32_t dim;
  const char* optimizer;
  Hyper hyper;
  RowFormat format;
};

// Rows, pending keys, counts of more than 14 bits, overflowing keys, erased ones.
std::unique_ptr<Table> some_table(const Kind& kind) {
  const TableOptions options = {kind.dim, kind.optimizer, kind.hyper, 7, 0.5f, 1 << 20, kind.format};
  auto table = std::make_unique<Table>(options);
  table->set_policy(0, {2, 1, 40});
  table->set_policy(1, {1, 1, 40});
  Keys keys(kKeys);
  for (size_t i = 0; i < kKeys; ++i) keys[i] = (i & 1) << 48 | i;
  keys = keys + crowd(0, 12);
  for (uint64_t i = 0; i < 300; ++i) keys.push_back(1000 + i);  // those who wait fill nearly a block
  std::vector<uint32_t> handles(keys.size());
  table->find_or_insert(span(keys), 10, handles.data());
  EXPECT(table->stats().overflowing > 0 && table->stats().pending > 0);
  std::vector<uint32_t> many(40000, handles[1]);
  const std::vector<float> gradients(many.size() * kind.dim, 0.25f);
  table->apply_pooled(span(many), {nullptr, 0}, gradients.data(), 0.1f);
  table->erase({keys.data() + 3, 5});
  return table;
}

// All rows of a chunk, which is 64 as they are wide, and updated ones among them.
std::unique_ptr<Table> full_chunk() {
  auto table = std::make_unique<Table>(TableOptions{8192, "sgd", {}, 7, 0.5f, 1 << 20});
  table->set_policy(1, {1, 1, 40});
  Keys keys(64);
  for (size_t i = 0; i < keys.size(); ++i) keys[i] = uint64_t{1} << 48 | i;
  std::vector<uint32_t> handles(keys.size());
  table->find_or_insert(span(keys), 10, handles.data());
  const std::vector<float> gradients(keys.size() * table->dim(), 0.25f);
  table->apply_pooled(span(handles), {nullptr, 0}, gradients.data(), 0.1f);
  return table;
}

struct Call {
  const char* name;
  std::function<void(Table&)> make;
  bool learns = false, takes_away = false;
};

// Old and new ones.
Keys call_keys() {
  Keys keys;
  for (uint64_t i = 0; i < 600; ++i) keys.push_back(i % 3 << 48 | (i * 7 % 500));
  return keys + crowd(0, 20);
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
         const std::vector<float> gradients(handles.size() * table.dim(), 0.5f);
         table.apply_pooled(span(handles), {nullptr, 0}, gradients.data(), 0.1f);
       },
       true},
      {"import_rows",
       [keys](Table& table) {
         std::vector<uint8_t> rows(keys.size() * table.row_bytes());
         for (size_t i = 0; i < keys.size(); ++i) rows[(i + 1) * table.row_bytes() - 6] = 1;  // 65536 updates
         table.import_rows(span(keys), rows.data());
       }},
      {"import_values",
       [keys](Table& table) {
         const std::vector<float> values(keys.size() * table.dim(), 2.0f);
         table.import_values(span(keys), values.data());
       }},
      {"erase", [keys](Table& table) { table.erase(span(keys)); }, false, true},
      {"expire", [](Table& table) { table.expire(1000, 1 << 20); }, false, true},
      {"expire_keys", [keys](Table& table) { table.expire_keys(span(keys), 1000); }, false, true},
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
         std::vector<float> out(2 * table.dim());
         table.lookup_pooled(span(keys), span(offsets), out.data());
       }},
      {"save", [folder](Table& table) { table.save(folder + "/fault"); }},
      {"load", [folder](Table&) { Table::load(folder + "/whole"); }},
  };
}

std::vector<uint8_t> rows_of(const Table& table, const Keys& keys) {
  std::vector<uint8_t> rows(keys.size() * table.row_bytes());
  table.export_rows(span(keys), rows.data());
  return rows;
}

// A table before a call.
struct Before {
  explicit Before(const Table& table) : keys(table.keys()), touched(table.touched()), rows(rows_of(table, keys)) {}

  const Keys keys, touched;
  const std::vector<uint8_t> rows;
};

// A row moved if and only if an update of it was counted.
void expect_counted_as_moved(const Table& table, const Before& before) {
  const std::vector<uint8_t> after = rows_of(table, before.keys);
  const size_t values = table.dim() * sizeof(float), updates = table.row_bytes() - sizeof(uint64_t);
  for (size_t at = 0; at < after.size(); at += table.row_bytes()) {
    const bool moved = std::memcmp(&before.rows[at], &after[at], values) != 0;
    EXPECT(moved == (std::memcmp(&before.rows[at + updates], &after[at + updates], sizeof(uint64_t)) != 0));
  }
}

bool has(const Keys& sorted, uint64_t key) { return std::binary_search(sorted.begin(), sorted.end(), key); }

// A key has its row, or is remembered as one that lost it.
void expect_remembered(const Table& table, const Before& before) {
  const Keys now = table.keys(), expired = table.expired(), touched = table.touched();
  for (const uint64_t key : before.keys) EXPECT(has(now, key) != has(expired, key));
  EXPECT(std::includes(before.touched.begin(), before.touched.end(), touched.begin(), touched.end()));
}

// Whatever happened, the table is a whole one: it says so, and so does a table that is read from its file.
void expect_unharmed(const Table& table, const Call& call, const Before& before, const std::string& folder) {
  if (call.learns) expect_counted_as_moved(table, before);
  if (call.takes_away) expect_remembered(table, before);
  table.check();
  table.save(folder + "/after");
  EXPECT(Table::load(folder + "/after")->keys() == table.keys());
}

// True if the call came to its end. In a thread of its own: what a thread keeps from call to call is not there yet.
bool call_with(long allocations, const Call& call, Table& table) {
  bool ended = false;
  std::thread([&] {
    left = allocations;
    bool thrown = false;
    try {
      call.make(table);
    } catch (const std::bad_alloc&) {
      thrown = true;
    }
    left = -1;
    EXPECT(!thrown || failed);
    ended = !failed;
  }).join();
  return ended;
}

bool drafts_in(const std::string& folder) {
  const std::filesystem::directory_iterator files(folder);
  return std::any_of(begin(files), end(files), [](const auto& file) {
    return file.path().filename().string().find(".draft") != std::string::npos;
  });
}

using Make = std::function<std::unique_ptr<Table>()>;

void fail_alone(const Call& call, const Make& make, const std::string& folder) {
  for (long allocations = 0, ended = 0; ended == 0; allocations += 1 + allocations / 40) {
    const std::unique_ptr<Table> table = make();
    const Before before(*table);
    ended = call_with(allocations, call, *table);
    EXPECT(!drafts_in(folder));
    expect_unharmed(*table, call, before, folder);
  }
}

// Beside a save, what changes is put aside; where there is no room for that, the save fails, and the change does not.
void fail_beside_a_save(const Call& call, const Make& make, const std::string& folder) {
  const std::string path = folder + "/busy";
  for (long allocations = 0, ended = 0; ended == 0; allocations += 1 + allocations / 40) {
    const std::unique_ptr<Table> table = make();
    const Before before(*table);
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
    EXPECT(!drafts_in(folder));
    if (saved) EXPECT(content_of(path) == content_of(folder + "/quiet"));
    expect_unharmed(*table, call, before, folder);
  }
}

}  // namespace

void every_allocation_fails(const std::string& folder) {
  const Kind kinds[] = {
      {4, "adagrad", {}, RowFormat::kFp32},
      {4, "adagrad", {}, RowFormat::kFp16},
      {4, "adagrad", {{"clip_norm", 1}}, RowFormat::kFp32},
  };
  some_table(kinds[0])->save(folder + "/whole");
  for (const Kind& kind : kinds) {
    for (const Call& call : calls(folder)) {
      fail_alone(call, [&] { return some_table(kind); }, folder);
      if (std::string(call.name) != "save") fail_beside_a_save(call, [&] { return some_table(kind); }, folder);
    }
  }
  for (const Call& call : calls(folder)) {
    if (call.takes_away) fail_alone(call, full_chunk, folder);
  }
}

}  // namespace monobeam
