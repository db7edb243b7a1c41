// Tables as files. Everything that later calls depend on is in them: the arrangement of the buckets, row numbers,
// touched rows, pending sightings, the hands of expiry. Little endian, as every machine that we build for.
// docs/formats.md describes the bytes.
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "file.h"
#include "table.h"

namespace monobeam {
namespace {

constexpr uint64_t kMagic = 0x454c424154424d00;  // "\0MBTABLE"
constexpr uint32_t kVersion = 3;

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
  file.put<uint32_t>(static_cast<uint32_t>(options.format));
  file.put<uint64_t>(options.memory_limit);
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
  const uint32_t format = file.get<uint32_t>();
  if (format > static_cast<uint32_t>(RowFormat::kInt8)) file.refuse("has an unknown row format");
  options.format = static_cast<RowFormat>(format);
  options.memory_limit = file.get<uint64_t>();
  return options;
}

void write_policies(FileWriter& file, const Policies& policies) {
  file.put<uint32_t>(static_cast<uint32_t>(policies.by_slot().size()));
  for (const auto& [slot, policy] : policies.by_slot()) {
    file.put<uint32_t>(slot);
    file.put<uint32_t>(policy.admit_count);
    file.put<double>(policy.admit_probability);
    file.put<uint32_t>(policy.expire_seconds);
    file.put<uint32_t>(policy.pending_seconds);
  }
}

void read_policies(FileReader& file, Policies& policies) {
  for (uint32_t left = file.get<uint32_t>(); left > 0; --left) {
    const uint32_t slot = file.get<uint32_t>();
    SlotPolicy policy;
    policy.admit_count = file.get<uint32_t>();
    policy.admit_probability = file.get<double>();
    policy.expire_seconds = file.get<uint32_t>();
    policy.pending_seconds = file.get<uint32_t>();
    policies.set(slot, policy);
  }
}

// Tells how far a file is, no more often than every 16 MiB and at the end.
class Teller {
 public:
  Teller(const Progress& progress, uint64_t all) : progress_(progress), all_(all) {}

  void at(uint64_t done) {
    if (!progress_ || (done < next_ && done < all_)) return;
    next_ = done + kEvery;
    progress_(std::min(done, all_), all_);
  }

 private:
  static constexpr uint64_t kEvery = uint64_t{16} << 20;

  const Progress& progress_;
  uint64_t all_;
  uint64_t next_ = 0;
};

constexpr uint32_t kBlockRows = 64;  // of a file: a word has a bit for each

}  // namespace

// The table as it was when the save began. Constructed, and destroyed, in the table's turn.
struct Table::Moment {
  explicit Moment(const Table& table)
      : table(table),
        buckets(table.index_.count(), sizeof(Bucket)),
        rows(table.arena_.limit(), table.arena_.image_bytes()),
        bucket_count(table.index_.count()),
        drained(table.index_.drained()),
        overflow(table.index_.overflow()),
        row_limit(table.arena_.limit()),
        row_count(table.arena_.size()),
        removed_count(table.removed_.size()),
        counters{table.row_limit_, table.forgotten_, table.expire_hand_, table.victim_hand_} {
    table.index_.watch(&buckets);
    table.arena_.watch(&rows);
    table.moment_ = this;
  }
  ~Moment() {
    table.index_.watch(nullptr);
    table.arena_.watch(nullptr);
    table.moment_ = nullptr;
  }

  const Table& table;
  BeforeImages buckets, rows;
  const uint32_t bucket_count;
  const uint64_t drained;
  const Buckets::Overflow overflow;
  const uint64_t row_limit, row_count;
  const size_t removed_count;
  const uint64_t counters[4];
  // What clear_touched() took away meanwhile.
  std::unique_ptr<Bits> touched;
  std::vector<uint64_t> removed;
};

void Table::clear_touched() {
  const auto turn = lock_.turn();
  const auto section = lock_.exclusive();
  const bool first_since_moment = moment_ != nullptr && moment_->touched == nullptr;
  if (first_since_moment) {
    moment_->touched = std::make_unique<Bits>(arena_.limit());
    moment_->removed = std::move(removed_);
  }
  arena_.clear_touched(first_since_moment ? moment_->touched.get() : nullptr);
  index_.clear_marks();
  removed_ = {};
}

// --- saving --------------------------------------------------------------------------------------------------------

void Table::save(const std::string& path, const Progress& progress) const {
  const std::lock_guard<std::mutex> alone(saving_);
  FileWriter file(path, kMagic, kVersion);
  auto turn = lock_.turn();
  auto moment = std::make_unique<Moment>(*this);
  turn.unlock();
  const auto end = [&] {
    const auto last_turn = lock_.turn();
    moment.reset();
  };
  try {
    write_head(file, *moment);
    write_buckets(file, *moment, progress);
    write_rows(file, *moment, progress);
  } catch (...) {
    end();
    throw;
  }
  end();
  file.commit();
}

void Table::write_head(FileWriter& file, const Moment& moment) const {
  write_options(file, options_);
  file.put<uint64_t>(moment.row_count);
  file.put<uint64_t>(moment.row_limit);
  for (const uint64_t counter : moment.counters) file.put<uint64_t>(counter);
  {
    const auto turn = lock_.turn();
    write_policies(file, policies_);
  }
  write_removed(file, moment);
  file.put<uint32_t>(moment.bucket_count);
  file.put<uint64_t>(moment.drained);
  file.put<uint64_t>(moment.overflow.size());
  for (const auto& [key, entry] : moment.overflow) {
    file.put<uint64_t>(key);
    file.put<uint32_t>(entry.row);
    file.put<uint32_t>(entry.seen);
  }
}

void Table::write_removed(FileWriter& file, const Moment& moment) const {
  file.put<uint64_t>(moment.removed_count);
  std::vector<uint64_t> part;
  for (size_t first = 0; first < moment.removed_count; first += part.size()) {
    {
      const auto turn = lock_.turn();
      const std::vector<uint64_t>& all = moment.touched == nullptr ? removed_ : moment.removed;
      const size_t end = std::min(first + kSavePart / sizeof(uint64_t), moment.removed_count);
      part.assign(all.begin() + first, all.begin() + end);
    }
    file.bytes(part.data(), part.size() * sizeof(uint64_t));
  }
}

void Table::write_buckets(FileWriter& file, Moment& moment, const Progress& progress) const {
  Teller teller(progress, moment_bytes(moment));
  std::vector<Bucket> part(kSavePart / sizeof(Bucket));
  for (uint32_t first = 0; first < moment.bucket_count; first += part.size()) {
    const uint32_t size = std::min<uint32_t>(part.size(), moment.bucket_count - first);
    {
      const auto turn = lock_.turn();
      for (uint32_t i = 0; i < size; ++i) {
        const bool as_it_was = moment.buckets.pass(first + i);
        std::memcpy(&part[i], as_it_was ? static_cast<const void*>(&index_.at(first + i)) : moment.buckets.image(first + i),
                    sizeof(Bucket));
      }
    }
    file.bytes(part.data(), size * sizeof(Bucket));
    teller.at(file.length());
  }
}

// Of 64 rows: which are live, which touched, the counts of the live ones, and their bytes.
void Table::write_rows(FileWriter& file, Moment& moment, const Progress& progress) const {
  Teller teller(progress, moment_bytes(moment));
  const size_t row_size = arena_.bytes_per_row();
  const uint64_t blocks = std::max<uint64_t>(1, kSavePart / (kBlockRows * std::max<size_t>(row_size, 16)));
  std::vector<uint8_t> part;
  for (uint64_t first = 0; first < moment.row_limit; first += blocks * kBlockRows) {
    part.clear();
    {
      const auto turn = lock_.turn();
      for (uint64_t block = first; block < std::min(first + blocks * kBlockRows, moment.row_limit); block += kBlockRows) {
        add_block(static_cast<uint32_t>(block), moment, part);
      }
    }
    file.bytes(part.data(), part.size());
    teller.at(file.length());
  }
  teller.at(moment_bytes(moment));
}

void Table::add_block(uint32_t first, Moment& moment, std::vector<uint8_t>& part) const {
  struct {
    uint64_t live = 0, touched = 0;
    uint64_t updates[kBlockRows];
  } head;
  const uint8_t* bytes[kBlockRows];
  uint32_t count = 0;
  for (uint32_t i = 0; i < kBlockRows; ++i) {
    const uint32_t row = first + i;
    RowNote note;
    if (moment.rows.pass(row)) {
      if (!arena_.live(row)) continue;
      note = {arena_.updates(row), moment.touched == nullptr ? arena_.touched(row) : moment.touched->test(row)};
      bytes[count] = arena_.row(row);
    } else {
      const uint8_t* image = moment.rows.image(row);
      if (image == nullptr) continue;
      std::memcpy(&note, image, sizeof(note));
      bytes[count] = image + sizeof(note);
    }
    head.live |= uint64_t{1} << i;
    head.touched |= uint64_t{note.touched} << i;
    head.updates[count++] = note.updates;
  }
  const size_t head_bytes = (2 + count) * sizeof(uint64_t), row_size = arena_.bytes_per_row();
  size_t at = part.size();
  part.resize(at + head_bytes + count * row_size);
  std::memcpy(part.data() + at, &head, head_bytes);
  at += head_bytes;
  for (uint32_t i = 0; i < count; ++i, at += row_size) std::memcpy(part.data() + at, bytes[i], row_size);
}

uint64_t Table::moment_bytes(const Moment& moment) const {
  return moment.bucket_count * sizeof(Bucket) + moment.row_limit / kBlockRows * 2 * sizeof(uint64_t) +
         moment.row_count * (sizeof(uint64_t) + arena_.bytes_per_row());
}

// --- loading -------------------------------------------------------------------------------------------------------

std::unique_ptr<Table> Table::load(const std::string& path, const Progress& progress) {
  FileReader file(path, kMagic, kVersion, "saved table");
  auto table = std::make_unique<Table>(read_options(file));
  table->read(file, progress);
  try {
    table->check();
  } catch (const std::runtime_error& broken) {
    file.refuse(std::string("holds a broken table: ") + broken.what());
  }
  return table;
}

void Table::read(FileReader& file, const Progress& progress) {
  Teller teller(progress, file.length());
  const uint64_t rows = file.get<uint64_t>(), row_limit = file.get<uint64_t>();
  row_limit_ = file.get<uint64_t>();
  forgotten_ = file.get<uint64_t>();
  const uint64_t expire_hand = file.get<uint64_t>(), victim_hand = file.get<uint64_t>();
  read_policies(file, policies_);
  const uint64_t removed = file.get<uint64_t>();
  if (removed > file.left() / sizeof(uint64_t)) file.refuse("has an impossible number of erased keys");
  removed_.resize(removed);
  file.bytes(removed_.data(), removed * sizeof(uint64_t));
  index_.read(file);
  teller.at(file.length() - file.left());
  if (expire_hand >= index_.count() || victim_hand >= index_.count()) file.refuse("has an impossible hand");
  expire_hand_ = static_cast<uint32_t>(expire_hand);
  victim_hand_ = static_cast<uint32_t>(victim_hand);
  if (row_limit > arena_.capacity() || row_limit % kBlockRows != 0) file.refuse("has an impossible number of rows");
  for (uint64_t first = 0; first < row_limit; first += kBlockRows) {
    read_block(file, static_cast<uint32_t>(first));
    teller.at(file.length() - file.left());
  }
  if (file.left() != 0) file.refuse("goes on after its end");
  if (arena_.size() != rows) file.refuse("holds another number of rows than it says");
  index_.for_each([&](uint64_t, uint32_t field, uint32_t) { pending_ += is_pending(field); });
}

void Table::read_block(FileReader& file, uint32_t first) {
  const uint64_t live = file.get<uint64_t>(), touched = file.get<uint64_t>();
  uint64_t updates[kBlockRows];
  file.bytes(updates, __builtin_popcountll(live) * sizeof(uint64_t));
  const uint64_t* next = updates;
  arena_.restore(first, live, [&](uint8_t* bytes, uint32_t row) {
    file.bytes(bytes, arena_.bytes_per_row());
    update_sum_ += *next;
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
