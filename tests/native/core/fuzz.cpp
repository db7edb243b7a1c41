#include "fuzz.h"

#include <cmath>

namespace monobeam {
namespace {

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
    case 14: random(2) ? expire() : expire_keys(); break;
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
    case 3: reserve(); break;
    case 4: case 5: case 6: case 7:
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
    const Floats anew = zeros(dim());
    table_->import_values({&key, 1}, anew.data());
    twin_.import_values(key, anew.data());
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
    twin_.import_values(keys[i], values.data() + i * dim());
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

// Changes nothing that can be seen.
void Fuzz::reserve() {
  try {
    table_->reserve(random(3 * plan_.keys));
  } catch (const TableFull&) {
    EXPECT(plan_.options.memory_limit > 0 || dim() > 0);
  }
}

void Fuzz::expire_keys() {
  const Keys keys = some_keys();
  size_t expected = 0;
  for (const uint64_t key : keys) {
    if (!twin_.due(key, now_)) continue;
    forget_handle(key);
    expected += twin_.remove(key);
  }
  EXPECT(table_->expire_keys(span(keys), now_) == expected);
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

}  // namespace monobeam
