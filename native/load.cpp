// Tables from files; save.cpp says what is in them. Nothing is taken for granted: a file may be damaged or not a table.
#include <algorithm>
#include <stdexcept>

#include "file.h"
#include "saved.h"

namespace monobeam {
namespace {

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
  const uint32_t format = file.get<uint32_t>();
  if (format > static_cast<uint32_t>(RowFormat::kInt8)) file.refuse("has an unknown row format");
  options.format = static_cast<RowFormat>(format);
  options.memory_limit = file.get<uint64_t>();
  return options;
}

void read_policies(FileReader& file, Policies& policies) {
  for (uint32_t left = file.get<uint32_t>(); left > 0; --left) {
    const uint32_t slot = file.get<uint32_t>();
    SlotPolicy policy;
    policy.admit_count = file.get<uint32_t>();
    policy.admit_probability = file.get<double>();
    policy.expire_seconds = file.get<uint32_t>();
    policy.pending_seconds = file.get<uint32_t>();
    try {
      policies.set(slot, policy);
    } catch (const std::invalid_argument& wrong) {
      file.refuse(std::string("has an impossible policy: ") + wrong.what());
    }
  }
}

}  // namespace

// A file on its way into an empty table.
class Table::Reading {
 public:
  Reading(Table& table, FileReader& file, const Progress& progress)
      : table_(table), file_(file), teller_(progress, file.length()) {}

  void all();

 private:
  void removed();
  void waiting();
  void block(uint32_t first);
  void tell() { teller_.at(file_.length() - file_.left()); }

  Table& table_;
  FileReader& file_;
  Teller teller_;
};

std::unique_ptr<Table> Table::load(const std::string& path, const Progress& progress) {
  FileReader file(path, kTableMagic, kTableVersion, "saved table");
  const TableOptions options = read_options(file);
  std::unique_ptr<Table> table;
  try {
    table = std::make_unique<Table>(options);
  } catch (const std::invalid_argument& wrong) {
    file.refuse(std::string("holds no table that this build knows: ") + wrong.what());
  }
  Reading(*table, file, progress).all();
  try {
    table->check();
  } catch (const std::runtime_error& broken) {
    file.refuse(std::string("holds a broken table: ") + broken.what());
  }
  return table;
}

void Table::Reading::all() {
  const Arena& arena = table_.arena_;
  const uint64_t rows = file_.get<uint64_t>(), row_limit = file_.get<uint64_t>();
  table_.row_limit_ = file_.get<uint64_t>();
  table_.forgotten_ = file_.get<uint64_t>();
  const uint64_t expire_hand = file_.get<uint64_t>();
  read_policies(file_, table_.policies_);
  removed();
  waiting();
  table_.index_.read(file_);
  tell();
  if (expire_hand >= table_.index_.count()) file_.refuse("has an impossible hand");
  table_.expire_hand_ = static_cast<uint32_t>(expire_hand);
  if (std::max(row_limit, table_.row_limit_) > arena.capacity() || row_limit % kBlockRows != 0) {
    file_.refuse("has " + std::to_string(std::max(row_limit, table_.row_limit_)) + " rows; there is room for " +
                 std::to_string(arena.capacity()));
  }
  for (uint64_t first = 0; first < row_limit; first += kBlockRows) {
    block(static_cast<uint32_t>(first));
    tell();
  }
  if (file_.left() != 0) file_.refuse("goes on after its end");
  if (arena.size() != rows) file_.refuse("holds another number of rows than it says");
  table_.index_.for_each([&](uint64_t, uint32_t field, uint32_t) { table_.pending_ += is_pending(field); });
}

void Table::Reading::removed() {
  const uint64_t count = file_.get<uint64_t>();
  if (count > file_.left() / sizeof(uint64_t)) file_.refuse("has an impossible number of erased keys");
  for (uint64_t left = count; left > 0; --left) table_.removed_.push_back(file_.get<uint64_t>());
  table_.removed_count_ = count;
}

void Table::Reading::waiting() {
  const uint64_t count = file_.get<uint64_t>();
  if (count > std::min(file_.left() / sizeof(uint64_t), table_.options_.pending_limit)) {
    file_.refuse("has an impossible number of waiting keys");
  }
  for (uint64_t left = count; left > 0; --left) table_.waiting_.push(file_.get<uint64_t>());
}

void Table::Reading::block(uint32_t first) {
  const uint64_t live = file_.get<uint64_t>(), touched = file_.get<uint64_t>();
  if ((touched & ~live) != 0) file_.refuse("has a note of a row that is not there");
  uint64_t updates[kBlockRows];
  file_.bytes(updates, __builtin_popcountll(live) * sizeof(uint64_t));
  const uint64_t* next = updates;
  table_.arena_.restore(first, live, [&](uint8_t* bytes, uint32_t row) {
    file_.bytes(bytes, table_.arena_.bytes_per_row());
    table_.update_sum_ += *next;
    return RowNote{*next++, (touched >> (row - first) & 1) != 0};
  });
}

void Buckets::read(FileReader& file) {
  const uint32_t buckets = file.get<uint32_t>();
  const uint64_t drained = file.get<uint64_t>();
  for (uint64_t left = file.get<uint64_t>(); left > 0; --left, ++size_) {
    const uint64_t key = file.get<uint64_t>();
    Entry& entry = overflow_[key];
    entry.row = file.get<uint32_t>();
    entry.seen = file.get<uint32_t>();
  }
  if (buckets < kFirstBuckets || buckets > file.left() / sizeof(Bucket)) file.refuse("has an impossible bucket count");
  drained_ = drained;
  resize(buckets);
  file.bytes(buckets_, size_t{buckets} * sizeof(Bucket));
  for (uint32_t bucket = 0; bucket < count_; ++bucket) size_ += at(bucket).used();
}

}  // namespace monobeam
