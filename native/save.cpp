// Tables as files. Everything that later calls depend on is in them: the arrangement of the buckets, row numbers,
// touched rows, pending sightings, the hands of expiry. Little endian, as every machine that we build for.
// docs/formats.md describes the bytes.
#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "file.h"
#include "saved.h"

namespace monobeam {
namespace {

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
        counters{table.row_limit_, table.forgotten_, table.expire_hand_},
        waiting(table.waiting_),
        policies(table.policies_.by_slot()) {
    table.index_.watch(&buckets);
    table.arena_.watch(&rows);
    table.moment_ = this;
  }
  ~Moment() { forget(); }

  // While others waited.
  size_t copied_bytes() const {
    return overflow.size() * sizeof(Buckets::Overflow::value_type) + policies.size() * sizeof(*policies.begin()) +
           waiting.parts() * sizeof(void*);
  }

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
  const uint64_t counters[3];
  const Waiting waiting;
  const std::map<uint32_t, SlotPolicy> policies;
  // What clear_touched() took away meanwhile.
  std::unique_ptr<Bits> touched;
  std::deque<uint64_t> removed;
};

void Table::clear_touched() {
  std::deque<uint64_t> forgotten;  // what is in the end goes when nobody waits any more
  const auto turn = lock_.turn();  // and no more: readers look at nothing of this
  const bool first_since_moment = moment_ != nullptr && moment_->touched == nullptr;
  if (first_since_moment) moment_->touched = std::make_unique<Bits>(arena_.limit());
  arena_.clear_touched(first_since_moment ? moment_->touched.get() : nullptr);
  index_.clear_marks();
  removed_.swap(first_since_moment ? moment_->removed : forgotten);
  removed_count_ = 0;
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
  FileWriter file(path, kTableMagic, kTableVersion);
  auto turn = lock_.turn();
  auto moment = std::make_unique<Moment>(*this);
  count_turn(moment->copied_bytes());
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
  file.put<uint64_t>(moment.waiting.size());
  moment.waiting.for_each_part([&](const uint64_t* keys, size_t count) { file.bytes(keys, count * sizeof(uint64_t)); });
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
      const std::deque<uint64_t>& all = moment.touched == nullptr ? removed_ : moment.removed;
      const size_t end = std::min(first + kSavePart / sizeof(uint64_t), moment.removed_count);
      part.assign(all.begin() + first, all.begin() + end);
      count_turn(part.size() * sizeof(uint64_t));
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

}  // namespace monobeam
