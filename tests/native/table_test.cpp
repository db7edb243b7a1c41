// Random operations on a table and on a std::unordered_map, and readers beside a writer: a program of its own, so that
// it can be built with sanitizers (see test_sanitizers.py). Exits with 1 and says where at the first difference.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "table.h"

using namespace monobeam;

#define EXPECT(condition)                                                              \
  do {                                                                                 \
    if (!(condition)) {                                                                \
      std::fprintf(stderr, "%s:%d: expected %s\n", __FILE__, __LINE__, #condition); \
      std::exit(1);                                                                    \
    }                                                                                  \
  } while (false)

namespace {

constexpr size_t kDim = 3;
constexpr float kRate = 0.125f;

struct Row {
  std::vector<float> values;
  uint32_t seen;
  uint64_t updates;
};

TableOptions options() { return {kDim, "sgd", {}, 7, 0.5f, 1 << 20}; }

template <typename T>
Span<const T> span(const std::vector<T>& values) {
  return {values.data(), values.size()};
}

// The same operations on both, compared as they go.
class Pair {
 public:
  explicit Pair(const std::string& path) : path_(path) { table_->set_policy(0, {0, 1, 40}); }

  void step() {
    const std::vector<uint64_t> keys = some_keys();
    switch (random(8)) {
      case 0: case 1: case 2: train(keys); break;
      case 3: erase(keys); break;
      case 4: expire(); break;
      case 5: import(keys); break;
      case 6: compare(keys); break;
      default: if (random(10) == 0) reload();
    }
    ++now_;
  }

  void finish() {
    table_->check();
    std::vector<uint64_t> keys;
    for (const auto& [key, row] : rows_) keys.push_back(key);
    compare(keys);
    EXPECT(table_->size() == rows_.size());
    EXPECT(table_->keys().size() == rows_.size());
  }

 private:
  uint64_t random(uint64_t below) { return engine_() % below; }

  std::vector<uint64_t> some_keys() {
    std::vector<uint64_t> keys(random(300));
    for (uint64_t& key : keys) key = random(2) ? random(50) : ~random(20000);
    return keys;
  }

  void train(const std::vector<uint64_t>& keys) {
    std::vector<uint32_t> handles(keys.size());
    table_->find_or_insert(span(keys), now_, handles.data());
    std::vector<int64_t> offsets = {0};
    while (offsets.back() < static_cast<int64_t>(keys.size())) {
      offsets.push_back(std::min<int64_t>(offsets.back() + random(5), keys.size()));
    }
    // Multiples of 1/8 of small size: sums are exact in any order.
    std::vector<float> gradients((offsets.size() - 1) * kDim);
    for (float& gradient : gradients) gradient = static_cast<float>(random(64)) / 8;
    for (const uint64_t key : keys) insert(key);
    for (size_t bag = 0; bag + 1 < offsets.size(); ++bag) {
      for (int64_t at = offsets[bag]; at < offsets[bag + 1]; ++at) {
        std::vector<float>& sum = sums_[keys[at]];
        sum.resize(kDim);
        for (size_t i = 0; i < kDim; ++i) sum[i] += gradients[bag * kDim + i];
        ++rows_[keys[at]].updates;
      }
    }
    for (const auto& [key, sum] : sums_) {
      for (size_t i = 0; i < kDim; ++i) rows_[key].values[i] -= kRate * sum[i];
    }
    sums_.clear();
    table_->apply_pooled(span(handles), span(offsets), gradients.data(), kRate);
  }

  void insert(uint64_t key) {
    if (rows_.count(key) == 0) {
      rows_[key] = {std::vector<float>(kDim), now_, 0};
      InitialRow(7, 0.5f).fill(key, rows_[key].values.data(), kDim);
    }
    rows_[key].seen = now_;
  }

  void erase(const std::vector<uint64_t>& keys) {
    size_t expected = 0;
    for (const uint64_t key : keys) expected += rows_.erase(key);
    EXPECT(table_->erase(span(keys)) == expected);
  }

  void expire() {
    for (const uint64_t key : table_->expire(now_, random(4000))) {
      EXPECT(slot_of(key) == 0);
      EXPECT(rows_.count(key) == 1 && rows_[key].seen + 40 <= now_);
      rows_.erase(key);
    }
  }

  void import(const std::vector<uint64_t>& keys) {
    std::vector<float> values(keys.size() * kDim);
    for (float& value : values) value = static_cast<float>(random(1000));
    for (size_t i = 0; i < keys.size(); ++i) {
      Row& row = rows_.emplace(keys[i], Row{{}, 0, 0}).first->second;
      row.values.assign(values.begin() + i * kDim, values.begin() + (i + 1) * kDim);
    }
    table_->import_values(span(keys), values.data());
  }

  void compare(const std::vector<uint64_t>& keys) {
    std::vector<float> values(keys.size() * kDim);
    std::unique_ptr<bool[]> found(new bool[keys.size() + 1]);
    table_->lookup(span(keys), values.data(), found.get());
    for (size_t i = 0; i < keys.size(); ++i) {
      const auto row = rows_.find(keys[i]);
      EXPECT(found[i] == (row != rows_.end()));
      if (!found[i]) continue;
      for (size_t c = 0; c < kDim; ++c) EXPECT(values[i * kDim + c] == row->second.values[c]);
      std::vector<uint8_t> bytes(table_->row_bytes());
      table_->export_rows({&keys[i], 1}, bytes.data());
      EXPECT(std::memcmp(bytes.data() + kDim * sizeof(float), &row->second.seen, 4) == 0);
      EXPECT(std::memcmp(bytes.data() + kDim * sizeof(float) + 8, &row->second.updates, 8) == 0);
    }
  }

  void reload() {
    table_->check();
    table_->save(path_);
    table_ = Table::load(path_);
  }

  const std::string path_;
  std::mt19937_64 engine_{42};
  uint32_t now_ = 0;
  std::unique_ptr<Table> table_ = std::make_unique<Table>(options());
  std::unordered_map<uint64_t, Row> rows_;
  std::unordered_map<uint64_t, std::vector<float>> sums_;
};

// A table that always grows, shrinks and learns, with readers of every kind beside.
void read_beside_a_writer() {
  TableOptions flat = options();
  flat.init_scale = 0;
  Table table(flat);
  table.set_policy(0, {2, 1, 3});
  std::vector<uint64_t> lasting(500);
  for (size_t i = 0; i < lasting.size(); ++i) lasting[i] = uint64_t{1} << 48 | i;
  std::vector<uint32_t> handles(lasting.size());
  table.find_or_insert(span(lasting), 0, handles.data());

  std::atomic<bool> done{false};
  const auto read = [&] {
    const std::vector<int64_t> offsets = {0, 1, 3, 500};
    std::vector<float> rows(lasting.size() * kDim);
    std::vector<uint32_t> found(lasting.size());
    while (!done) {
      table.find(span(lasting), found.data());
      EXPECT(found == handles);
      table.gather(span(handles), rows.data());
      for (size_t i = 0; i < rows.size(); ++i) EXPECT(rows[i] == rows[i / kDim * kDim]);
      table.lookup_pooled(span(lasting), span(offsets), rows.data());
      EXPECT(table.size() >= lasting.size());
      EXPECT(table.memory_bytes() > 0);
    }
  };
  const auto snapshot = [&] {
    while (!done) {
      table.check();
      EXPECT(table.keys().size() >= lasting.size());
      EXPECT(table.touched().size() <= lasting.size());
    }
  };
  std::thread threads[] = {std::thread(read), std::thread(read), std::thread(snapshot)};
  const std::vector<float> gradients(lasting.size() * kDim, 0.5f);
  std::vector<int64_t> ones(lasting.size() + 1);
  for (size_t i = 0; i < ones.size(); ++i) ones[i] = static_cast<int64_t>(i);
  for (uint32_t now = 1; now < 60; ++now) {
    std::vector<uint64_t> passing(600);
    for (size_t i = 0; i < passing.size(); ++i) passing[i] = now * 200 + i;
    std::vector<uint32_t> unused(passing.size());
    table.find_or_insert(span(passing), now, unused.data());
    table.apply_pooled(span(handles), span(ones), gradients.data(), kRate);
    table.expire(now, 1000);
    table.clear_touched();
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
  table.check();
}

}  // namespace

int main(int count, char** arguments) {
  EXPECT(count == 3);
  const int steps = std::atoi(arguments[2]);
  Pair pair(arguments[1]);
  for (int step = 0; step < steps; ++step) pair.step();
  pair.finish();
  read_beside_a_writer();
}
