// Tables as files. Everything that later calls depend on is in them: the arrangement of the buckets, row numbers,
// touched rows, pending sightings, the hands of expiry. Little endian, as every machine that we build for.
#include <cstring>
#include <stdexcept>

#include "file.h"
#include "table.h"

namespace monobeam {
namespace {

constexpr uint64_t kMagic = 0x454c424154424d00;  // "\0MBTABLE"
constexpr uint32_t kVersion = 2;

void write_options(FileWriter& file, const TableOptions& options) {
  file.put<uint32_t>(options.dim);
  file.text(options.optimizer);
  file.put<uint32_t>(static_cast<uint32_t>(options.hyper.size()));
  for (const auto& [name, value] : options.hyper) {
    file.text(name);
    file.put<double>(value);
  }
  file.put<uint64_t>(options.seed);
  file.put<float>(options.init_scale);
  file.put<uint64_t>(options.pending_limit);
}

TableOptions read_options(FileReader& file) {
  TableOptions options = {};
  options.dim = file.get<uint32_t>();
  options.optimizer = file.text();
  for (uint32_t left = file.get<uint32_t>(); left > 0; --left) {
    const std::string name = file.text();
    options.hyper[name] = file.get<double>();
  }
  options.seed = file.get<uint64_t>();
  options.init_scale = file.get<float>();
  options.pending_limit = file.get<uint64_t>();
  return options;
}

void write_policies(FileWriter& file, const Policies& policies) {
  file.put<uint32_t>(static_cast<uint32_t>(policies.by_slot().size()));
  for (const auto& [slot, policy] : policies.by_slot()) {
    file.put<uint32_t>(slot);
    file.put<uint32_t>(policy.admit_count);
    file.put<double>(policy.admit_probability);
    file.put<uint32_t>(policy.expire_seconds);
  }
}

void read_policies(FileReader& file, Policies& policies) {
  for (uint32_t left = file.get<uint32_t>(); left > 0; --left) {
    const uint32_t slot = file.get<uint32_t>();
    SlotPolicy policy;
    policy.admit_count = file.get<uint32_t>();
    policy.admit_probability = file.get<double>();
    policy.expire_seconds = file.get<uint32_t>();
    policies.set(slot, policy);
  }
}

}  // namespace

void Buckets::write(FileWriter& file) const {
  file.put<uint32_t>(count_);
  file.put<uint64_t>(drained_);
  for (uint32_t bucket = 0; bucket < count_; ++bucket) file.bytes(&at(bucket), sizeof(Bucket));
  file.put<uint64_t>(overflow_.size());
  for (const auto& [key, entry] : overflow_) {
    file.put<uint64_t>(key);
    file.put<uint32_t>(entry.row);
    file.put<uint32_t>(entry.seen);
  }
}

void Buckets::read(FileReader& file) {
  reset();
  const uint32_t buckets = file.get<uint32_t>();
  drained_ = file.get<uint64_t>();
  if (buckets < kFirstBuckets || buckets > file.left() / sizeof(Bucket)) file.refuse("has an impossible bucket count");
  resize(buckets);
  for (uint32_t bucket = 0; bucket < count_; ++bucket) {
    file.bytes(&at(bucket), sizeof(Bucket));
    size_ += at(bucket).used();
  }
  for (uint64_t left = file.get<uint64_t>(); left > 0; --left, ++size_) {
    const uint64_t key = file.get<uint64_t>();
    Entry& entry = overflow_[key];
    entry.row = file.get<uint32_t>();
    entry.seen = file.get<uint32_t>();
  }
}

void Arena::write(FileWriter& file) const {
  file.put<uint64_t>(size_);
  for_each([&](uint32_t row) {
    file.put<uint32_t>(row);
    file.put<uint32_t>(touched(row));
    file.put<uint64_t>(updates(row));
    file.bytes(floats(row), floats_per_row_ * sizeof(float));
  });
}

void Arena::read(FileReader& file) {
  const uint64_t rows = file.get<uint64_t>();
  if (rows > file.left() / (2 * sizeof(uint64_t))) file.refuse("has an impossible row count");
  for (uint64_t i = 0; i < rows; ++i) {
    const uint32_t row = file.get<uint32_t>();
    if (row >= capacity_ || live(row)) file.refuse("has an impossible row number");
    const bool was_touched = file.get<uint32_t>() != 0;
    restore(row);
    set_updates(row, file.get<uint64_t>());
    file.bytes(floats(row), floats_per_row_ * sizeof(float));
    if (was_touched) touch(row);
  }
}

void Table::save(const std::string& path) const {
  const auto turn = lock_.turn();
  FileWriter file(path, kMagic, kVersion);
  write_options(file, options_);
  write_policies(file, policies_);
  for (const uint64_t counter : {row_limit_, forgotten_, uint64_t{expire_hand_}, uint64_t{victim_hand_}}) {
    file.put<uint64_t>(counter);
  }
  file.put<uint64_t>(removed_.size());
  file.bytes(removed_.data(), removed_.size() * sizeof(uint64_t));
  index_.write(file);
  arena_.write(file);
  file.commit();
}

std::unique_ptr<Table> Table::load(const std::string& path) {
  FileReader file(path, kMagic, kVersion, "saved table");
  auto table = std::make_unique<Table>(read_options(file));
  table->read(file);
  try {
    table->check();
  } catch (const std::runtime_error& broken) {
    file.refuse(std::string("holds a broken table: ") + broken.what());
  }
  return table;
}

void Table::read(FileReader& file) {
  read_policies(file, policies_);
  row_limit_ = file.get<uint64_t>();
  forgotten_ = file.get<uint64_t>();
  const uint64_t expire_hand = file.get<uint64_t>(), victim_hand = file.get<uint64_t>();
  const uint64_t removed = file.get<uint64_t>();
  if (removed > file.left() / sizeof(uint64_t)) file.refuse("has an impossible number of erased keys");
  removed_.resize(removed);
  file.bytes(removed_.data(), removed * sizeof(uint64_t));
  index_.read(file);
  if (expire_hand >= index_.count() || victim_hand >= index_.count()) file.refuse("has an impossible hand");
  expire_hand_ = static_cast<uint32_t>(expire_hand);
  victim_hand_ = static_cast<uint32_t>(victim_hand);
  arena_.read(file);
  if (file.left() != 0) file.refuse("goes on after its end");
  arena_.for_each([&](uint32_t row) {
    update_sum_ += arena_.updates(row);
    touched_unlisted_ |= arena_.touched(row);
  });
  index_.for_each([&](uint64_t, uint32_t field, uint32_t) { pending_ += is_pending(field); });
}

}  // namespace monobeam
