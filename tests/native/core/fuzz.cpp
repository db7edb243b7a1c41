#include "fuzz.h"

#include <cmath>

namespace monobeam {
namespace {

constexpr float kRate = 0.125f;
constexpr size_t kTail = 16;  // of an exported row
const uint64_t kEdges[] = {0, 1, ~uint64_t{0}, uint64_t{1} << 63, (uint64_t{1} << 63) - 1, 0xffffffff, kNone};

}  // namespace

Fuzz::Fuzz(const FuzzPlan& plan, const std::string& folder)
    : plan_(plan), folder_(folder), table_(std::make_unique<Table>(plan.options)), twin_(plan.options) {}

void Fuzz::run(uint64_t calls) {
  while (calls_ < calls) {
    call();
    if (calls_ % 512 == 0) check();
  }
  check();
}

void Fuzz::call() {
  ++calls_;
  now_ += random(8) == 0;
  const uint64_t kind = random(1000);
  if (kind < 550) {
    change();
  } else if (kind < 985 || saving_) {
    read();
  } else {
    whole();
  }
  EXPECT(table_->size() == twin_.rows().size());
}

void Fuzz::change() {
  switch (random(16)) {
    case 0: case 1: case 2: case 3: case 4: sight(); break;
    case 5: case 6: case 7: case 8: train(); break;
    case 9: case 10: import_rows(); break;
    case 11: import_values(); break;
    case 12: case 13: erase(); break;
    case 14: expire(); break;
    default: random(8) == 0 ? set_policy() : sight();
  }
}

void Fuzz::read() {
  switch (random(6)) {
    case 0: case 1: lookup(); break;
    case 2: gather(); break;
    case 3: pooled(); break;
    case 4: export_rows(); break;
    default: look_at_stale_handles();
  }
}

void Fuzz::whole() {
  switch (random(30)) {
    case 0: clear(); break;
    case 1: reload(); break;
    case 2: save_beside_changes(); break;
    case 3: case 4: case 5: case 6:
      table_->clear_touched();
      twin_.clear_touched();
      break;
    default: snapshots();
  }
}

// --- what calls are made with --------------------------------------------------------------------------------------

Keys Fuzz::some_keys() {
  Keys keys(random(plan_.most_keys + 1));
  for (uint64_t& key : keys) {
    const uint64_t number = random(plan_.keys);
    key = number < std::size(kEdges) ? kEdges[number] : (number & 3) << 48 | number;
  }
  return keys;
}

// On a grid that every format holds exactly.
Floats Fuzz::some_values(size_t rows) {
  Floats values = zeros(rows * dim());
  const int64_t most = plan_.options.format == RowFormat::kInt8 ? 127 : 15;
  for (float& value : values) value = static_cast<float>(static_cast<int64_t>(random(2 * most + 1)) - most);
  if (plan_.options.format == RowFormat::kInt8) {
    for (size_t row = 0; row < rows && dim() > 0; ++row) values[row * dim()] = 127;  // a scale of 1
  }
  return values;
}

Floats Fuzz::some_gradients(size_t rows) {
  Floats gradients = zeros(rows * dim());
  for (float& gradient : gradients) {
    const float whole = static_cast<float>(random(5)) - 2;
    gradient = on_grid() ? whole : whole + static_cast<float>(random(1000)) / 777;
  }
  return gradients;
}

std::vector<int64_t> Fuzz::some_bags(size_t keys) {
  std::vector<int64_t> offsets = {0};
  while (offsets.back() < static_cast<int64_t>(keys)) {
    offsets.push_back(std::min<int64_t>(offsets.back() + random(4), keys));
  }
  return offsets;
}

std::vector<uint32_t> Fuzz::find(const Keys& keys) {
  std::vector<uint32_t> handles(keys.size());
  table_->find(span(keys), handles.data());
  for (size_t i = 0; i < keys.size(); ++i) learn_handle(keys[i], handles[i]);
  return handles;
}

// A handle is its key's as long as the key has a row.
void Fuzz::learn_handle(uint64_t key, uint32_t handle) {
  TwinRow* row = twin_.find(key);
  EXPECT((row != nullptr) == (handle != kNone));
  if (row == nullptr) return;
  if (row->handle == kNone) {
    EXPECT(owners_.emplace(handle, key).second);
    row->handle = handle;
    most_handle_ = std::max(most_handle_, handle);
  }
  EXPECT(row->handle == handle);
}

void Fuzz::forget_handle(uint64_t key) {
  const TwinRow* row = twin_.find(key);
  if (row != nullptr) owners_.erase(row->handle);
}

// --- what changes rows ---------------------------------------------------------------------------------------------

// Where there is no room, the keys before the first that got no row are done, and all that had a row are stamped.
void Fuzz::sight() {
  const Keys keys = some_keys();
  std::vector<uint32_t> handles(keys.size());
  bool full = false;
  try {
    table_->find_or_insert(span(keys), now_, handles.data());
  } catch (const TableFull&) {
    EXPECT(plan_.options.memory_limit > 0);
    full = true;
  }
  if (!full) {
    for (size_t i = 0; i < keys.size(); ++i) {
      twin_.sight(keys[i], now_);
    }
    for (size_t i = 0; i < keys.size(); ++i) {
      if (handles[i] != kNone) learn_handle(keys[i], handles[i]);
    }
    return;
  }
  table_->find(span(keys), handles.data());
  bool failed = false;
  for (size_t i = 0; i < keys.size(); ++i) {
    failed |= handles[i] == kNone;
    if (twin_.find(keys[i]) != nullptr || !failed) twin_.sight(keys[i], now_);
  }
  EXPECT(failed);
  find(keys);
}

void Fuzz::train() {
  const Keys keys = some_keys();
  const std::vector<uint32_t> handles = find(keys);
  const bool alone = random(3) == 0;
  std::vector<int64_t> offsets = some_bags(keys.size());
  if (alone) {
    offsets.resize(keys.size() + 1);
    for (size_t i = 0; i < offsets.size(); ++i) offsets[i] = static_cast<int64_t>(i);
  }
  const Floats gradients = some_gradients(offsets.size() - 1);
  if (plan_.options.format == RowFormat::kInt8) {
    EXPECT_THROWS(std::invalid_argument, table_->apply_pooled(span(handles), span(offsets), gradients.data(), kRate));
    return;
  }
  table_->apply_pooled(span(handles), alone ? Span<const int64_t>{nullptr, 0} : span(offsets), gradients.data(), kRate);
  twin_.apply(keys, offsets, gradients, kRate);
  if (!on_grid()) return;
  // Before they leave the grid, values start anew.
  for (const uint64_t key : keys) {
    TwinRow* row = twin_.find(key);
    if (row == nullptr) continue;
    const bool far = std::any_of(row->values.begin(), row->values.end(), [](float w) { return std::fabs(w) > 20; });
    if (!far) continue;
    row->values.assign(dim(), 0);
    std::fill(row->state.begin(), row->state.end(), 0.0f);
    table_->import_values({&key, 1}, row->values.data());
  }
}

void Fuzz::import_rows() {
  const Keys keys = some_keys();
  const Floats values = some_values(keys.size());
  const size_t states = twin_.state_floats();
  std::vector<uint8_t> rows(keys.size() * table_->row_bytes());
  std::vector<TwinRow> made;
  for (size_t i = 0; i < keys.size(); ++i) {
    TwinRow row = {{values.begin() + i * dim(), values.begin() + (i + 1) * dim()}, zeros(states), 0};
    for (float& value : row.state) value = static_cast<float>(random(100)) / 8 + 0.125f;
    row.seen = now_ - static_cast<uint32_t>(random(20));
    row.updates = random(4) == 0 ? random(40000) : random(5);  // counts of more than 14 bits are stored apart
    uint8_t* at = rows.data() + i * table_->row_bytes();
    std::copy_n(reinterpret_cast<const uint8_t*>(row.values.data()), dim() * 4, at);
    std::copy_n(reinterpret_cast<const uint8_t*>(row.state.data()), states * 4, at + dim() * 4);
    std::memcpy(at + (dim() + states) * 4, &row.seen, 4);
    std::memcpy(at + (dim() + states) * 4 + 8, &row.updates, 8);
    made.push_back(row);
  }
  bool full = false;
  try {
    table_->import_rows(span(keys), rows.data());
  } catch (const TableFull&) {
    EXPECT(plan_.options.memory_limit > 0);
    full = true;
  }
  std::vector<uint32_t> handles(keys.size());
  table_->find(span(keys), handles.data());
  for (size_t i = 0; i < keys.size(); ++i) {
    if (full && handles[i] == kNone) break;
    TwinRow& row = twin_.find_or_add(keys[i]);
    made[i].handle = row.handle;
    row = made[i];
  }
  find(keys);
}

void Fuzz::import_values() {
  const Keys keys = some_keys();
  const Floats values = some_values(keys.size());
  bool full = false;
  try {
    table_->import_values(span(keys), values.data());
  } catch (const TableFull&) {
    EXPECT(plan_.options.memory_limit > 0);
    full = true;
  }
  std::vector<uint32_t> handles(keys.size());
  table_->find(span(keys), handles.data());
  for (size_t i = 0; i < keys.size(); ++i) {
    if (full && handles[i] == kNone) break;
    TwinRow& row = twin_.find_or_add(keys[i]);
    row.values.assign(values.begin() + i * dim(), values.begin() + (i + 1) * dim());
    std::fill(row.state.begin(), row.state.end(), 0.0f);
  }
  find(keys);
}

void Fuzz::erase() {
  const Keys keys = some_keys();
  size_t expected = 0;
  for (const uint64_t key : keys) {
    forget_handle(key);
    expected += twin_.remove(key);
  }
  EXPECT(table_->erase(span(keys)) == expected);
}

// All buckets in slices: no more goes than a slice may hold, and in all what is due.
void Fuzz::expire() {
  const uint64_t buckets = table_->stats().buckets;
  Keys gone;
  for (uint64_t looked = 0; looked < buckets;) {
    const uint64_t budget = random(2) ? buckets : random(buckets);
    const Keys some = table_->expire(now_, budget);
    EXPECT(std::is_sorted(some.begin(), some.end()));
    EXPECT(some.size() <= kSlots * budget + twin_.rows().size() * (table_->stats().overflowing > 0));
    gone.insert(gone.end(), some.begin(), some.end());
    looked += budget;
  }
  for (const uint64_t key : gone) forget_handle(key);
  std::sort(gone.begin(), gone.end());
  EXPECT(gone == twin_.expire(now_));
  EXPECT(table_->stats().pending == twin_.pending());
}

void Fuzz::set_policy() {
  if (!plan_.policies) return;
  const double probabilities[] = {1, 1, 0.5, 0};
  const SlotPolicy policy = {static_cast<uint32_t>(random(4)), probabilities[random(4)],
                             static_cast<uint32_t>(random(200)), static_cast<uint32_t>(random(100))};
  const uint32_t slot = random(2) ? 0 : static_cast<uint32_t>(random(4));
  table_->set_policy(slot, policy);
  twin_.set_policy(slot, policy);
}

// --- what reads rows -----------------------------------------------------------------------------------------------

void Fuzz::lookup() { compare(some_keys()); }

void Fuzz::compare(const Keys& keys) {
  Floats values = zeros(keys.size() * dim());
  std::unique_ptr<bool[]> found(new bool[keys.size() + 1]);
  table_->lookup(span(keys), values.data(), found.get());
  for (size_t i = 0; i < keys.size(); ++i) {
    const TwinRow* row = twin_.find(keys[i]);
    EXPECT(found[i] == (row != nullptr));
    const Floats expected = row == nullptr ? zeros(dim()) : row->values;
    EXPECT(std::equal(expected.begin(), expected.end(), values.begin() + i * dim()));
  }
}

void Fuzz::gather() {
  const Keys keys = some_keys();
  const std::vector<uint32_t> handles = find(keys);
  Floats values = zeros(keys.size() * dim());
  table_->gather(span(handles), values.data());
  for (size_t i = 0; i < keys.size(); ++i) {
    const TwinRow* row = twin_.find(keys[i]);
    const Floats expected = row == nullptr ? zeros(dim()) : row->values;
    EXPECT(std::equal(expected.begin(), expected.end(), values.begin() + i * dim()));
  }
}

void Fuzz::pooled() {
  const Keys keys = some_keys();
  const std::vector<int64_t> offsets = some_bags(keys.size());
  const size_t bags = offsets.size() - 1;
  Floats expected = zeros(bags * dim()), values = expected, gathered = expected;
  values.reserve(1), gathered.reserve(1);
  for (size_t bag = 0; bag < bags; ++bag) {
    for (int64_t at = offsets[bag]; at < offsets[bag + 1]; ++at) {
      const TwinRow* row = twin_.find(keys[at]);
      for (size_t i = 0; row != nullptr && i < dim(); ++i) expected[bag * dim() + i] += row->values[i];
    }
  }
  table_->lookup_pooled(span(keys), span(offsets), values.data());
  table_->gather_pooled(span(find(keys)), span(offsets), gathered.data());
  EXPECT(values == expected);
  EXPECT(gathered == expected);
}

void Fuzz::export_rows() {
  Keys keys = some_keys();
  const auto unknown = [&](uint64_t key) { return twin_.find(key) == nullptr; };
  std::vector<uint8_t> rows(keys.size() * table_->row_bytes());
  if (std::any_of(keys.begin(), keys.end(), unknown)) {
    EXPECT_THROWS(std::invalid_argument, table_->export_rows(span(keys), rows.data()));
    keys.erase(std::remove_if(keys.begin(), keys.end(), unknown), keys.end());
  }
  table_->export_rows(span(keys), rows.data());
  const uint8_t* at = rows.data();
  for (const uint64_t key : keys) {
    const TwinRow& row = *twin_.find(key);
    const uint32_t zero = 0;
    EXPECT(dim() == 0 || std::equal(row.values.begin(), row.values.end(), reinterpret_cast<const float*>(at)));
    at += dim() * sizeof(float);
    EXPECT(row.state.empty() || std::memcmp(at, row.state.data(), row.state.size() * sizeof(float)) == 0);
    at += row.state.size() * sizeof(float);
    EXPECT(std::memcmp(at, &row.seen, 4) == 0 && std::memcmp(at + 4, &zero, 4) == 0);
    EXPECT(std::memcmp(at + 8, &row.updates, 8) == 0);
    at += kTail;
  }
}

// A handle of nobody reads as zeros, and learns nothing.
void Fuzz::look_at_stale_handles() {
  const uint32_t handle = static_cast<uint32_t>(random(most_handle_ + 1));
  if (most_handle_ == 0 || owners_.count(handle) > 0) return;
  Floats values = zeros(dim());
  std::fill(values.begin(), values.end(), 1.0f);
  table_->gather({&handle, 1}, values.data());
  EXPECT(values == zeros(dim()));
  if (plan_.options.format == RowFormat::kInt8) return;
  const uint64_t before = table_->update_count_sum();
  table_->apply_pooled({&handle, 1}, {nullptr, 0}, some_gradients(1).data(), kRate);
  table_->gather({&handle, 1}, values.data());
  EXPECT(values == zeros(dim()));
  EXPECT(table_->update_count_sum() == before);
}

// --- the whole table -----------------------------------------------------------------------------------------------

void Fuzz::snapshots() {
  EXPECT(table_->keys() == twin_.keys());
  EXPECT(table_->touched() == twin_.touched());
  EXPECT(table_->expired() == twin_.expired());
}

void Fuzz::check() {
  table_->check();
  EXPECT(table_->update_count_sum() == twin_.updates());
  EXPECT(table_->stats().pending == twin_.pending());
}

void Fuzz::clear() {
  if (random(4) > 0) return;
  table_->clear();
  twin_.clear();
  owners_.clear();
}

void Fuzz::reload() {
  const std::string path = folder_ + "/reload", again = folder_ + "/again";
  table_->save(path);
  table_ = Table::load(path);
  table_->save(again);
  EXPECT(content_of(path) == content_of(again));
}

// The file is of the moment when save() began, whatever happens meanwhile.
void Fuzz::save_beside_changes() {
  const std::string quiet = folder_ + "/quiet", busy = folder_ + "/busy";
  table_->save(quiet);
  saving_ = true;
  table_->save(busy, [&](uint64_t, uint64_t) {
    for (int i = 0; i < 40; ++i) {
      call();
      if (random(20) == 0) {
        table_->clear_touched();
        twin_.clear_touched();
      }
    }
  });
  saving_ = false;
  EXPECT(content_of(quiet) == content_of(busy));
}

}  // namespace monobeam
