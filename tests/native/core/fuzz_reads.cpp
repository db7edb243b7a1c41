#include "fuzz.h"

namespace monobeam {

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
    at += 16;  // with the count
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
  EXPECT(table_->stats().forgotten == twin_.forgotten());
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
