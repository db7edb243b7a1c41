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

void write_policies(FileWriter& file, const std::map<uint32_t, SlotPolicy>& by_slot) {
  file.put<uint32_t>(static_cast<uint32_t>(by_slot.size()));
  for (const auto& [slot, policy] : by_slot) {
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

// The table as it was when the save began. Constructed in the table's turn, and in another told to forget.
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
        counters{table.row_limit_, table.forgotten_, table.expire_hand_, table.victim_hand_},
        policies(table.policies_.by_slot()) {
    table.index_.watch(&buckets);
    table.arena_.watch(&rows);
    table.moment_ = this;
  }
  ~Moment() { forget(); }

  // In the table's turn: nothing is put aside any more.
  void forget() {
    if (table.moment_ != this) return;
    table.index_.watch(nullptr);
    table.arena_.watch(nullptr);
    table.moment_ = nullptr;
  }

  void refuse_lost() const {
    if (buckets.lost() || rows.lost()) throw std::bad_alloc();
  }

  // Where the bytes of a row are that was live, and its note; null if it was free.
  const uint8_t* row(uint32_t row, RowNote& note) const {
    if (rows.intact(row)) {
      const Arena& arena = table.arena_;
      if (!arena.live(row)) return nullptr;
      note = {arena.updates(row), touched == nullptr ? arena.touched(row) : touched->test(row)};
      return arena.row(row);
    }
    const uint8_t* image = rows.image(row);
    if (image == nullptr) return nullptr;
    std::memcpy(&note, image, sizeof(note));
    return image + sizeof(note);
  }

  const Table& table;
  BeforeImages buckets, rows;
  const uint32_t bucket_count;
  const uint64_t drained;
  const Buckets::Overflow overflow;
  const uint64_t row_limit, row_count;
  const size_t removed_count;
  const uint64_t counters[4];
  const std::map<uint32_t, SlotPolicy> policies;
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

// Whoever must not run beside a save. The callback of a save runs in its thread, which would wait for itself.
std::unique_lock<std::mutex> Table::no_save() const {
  if (saver_ == std::this_thread::get_id()) {
    throw std::invalid_argument("the progress callback of save() can neither clear nor save its own table");
  }
  return std::unique_lock<std::mutex>(saving_);
}

// Notes which thread saves.
class Table::Saver {
 public:
  explicit Saver(std::atomic<std::thread::id>& saver) : saver_(saver) { saver_ = std::this_thread::get_id(); }
  ~Saver() { saver_ = std::thread::id(); }
  Saver(const Saver&) = delete;
  Saver& operator=(const Saver&) = delete;

 private:
  std::atomic<std::thread::id>& saver_;
};

// --- saving --------------------------------------------------------------------------------------------------------

void Table::save(const std::string& path, const Progress& progress) const {
  const auto alone = no_save();
  const Saver here(saver_);
  FileWriter file(path, kMagic, kVersion);
  auto turn = lock_.turn();
  auto moment = std::make_unique<Moment>(*this);
  turn.unlock();
  const auto end = [&] {
    {
      const auto last_turn = lock_.turn();
      moment->forget();
    }
    moment.reset();  // nobody need wait for that
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
  write_policies(file, moment.policies);
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
      moment.refuse_lost();
      for (uint32_t i = 0; i < size; ++i) {
        const void* now = &index_.at(first + i);
        std::memcpy(&part[i], moment.buckets.intact(first + i) ? now : moment.buckets.image(first + i), sizeof(Bucket));
        moment.buckets.pass(first + i);
      }
      count_turn(size * sizeof(Bucket));
    }
    file.bytes(part.data(), size * sizeof(Bucket));
    teller.at(file.length());
  }
}

// Rows in blocks of 64, each with a head. What a head says of the moment stays true, so that the rows of a block may come
// in several turns.
void Table::write_rows(FileWriter& file, Moment& moment, const Progress& progress) const {
  Teller teller(progress, moment_bytes(moment));
  const uint64_t rows_a_turn = std::max<uint64_t>(1, kSavePart / std::max<size_t>(arena_.bytes_per_row(), 16));
  std::vector<uint8_t> part;
  for (uint64_t row = 0; row < moment.row_limit;) {
    part.clear();
    {
      const auto turn = lock_.turn();
      moment.refuse_lost();
      for (const uint64_t end = std::min(row + rows_a_turn, moment.row_limit); row < end; ++row) {
        if (row % kBlockRows == 0) add_head(static_cast<uint32_t>(row), moment, part);
        add_row(static_cast<uint32_t>(row), moment, part);
      }
      count_turn(part.size());
    }
    file.bytes(part.data(), part.size());
    teller.at(file.length());
  }
  teller.at(moment_bytes(moment));
}

// Of 64 rows: which are live, which touched, and the counts of the live ones.
void Table::add_head(uint32_t first, const Moment& moment, std::vector<uint8_t>& part) const {
  struct {
    uint64_t live = 0, touched = 0;
    uint64_t updates[kBlockRows];
  } head;
  uint32_t count = 0;
  for (uint32_t i = 0; i < kBlockRows; ++i) {
    RowNote note;
    if (moment.row(first + i, note) == nullptr) continue;
    head.live |= uint64_t{1} << i;
    head.touched |= uint64_t{note.touched} << i;
    head.updates[count++] = note.updates;
  }
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(&head);
  part.insert(part.end(), bytes, bytes + (2 + count) * sizeof(uint64_t));
}

void Table::add_row(uint32_t row, Moment& moment, std::vector<uint8_t>& part) const {
  RowNote note;
  const uint8_t* bytes = moment.row(row, note);
  if (bytes != nullptr) part.insert(part.end(), bytes, bytes + arena_.bytes_per_row());
  moment.rows.pass(row);
}

void Table::count_turn(uint64_t bytes) const {
  if (bytes > most_saved_) most_saved_ = bytes;
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
  if (std::max(row_limit, row_limit_) > arena_.capacity() || row_limit % kBlockRows != 0) {
    file.refuse("has " + std::to_string(row_limit_) + " rows; there is room for " + std::to_string(arena_.capacity()));
  }
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
