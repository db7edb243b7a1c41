// Tables as files. Everything that later calls depend on is in them: the arrangement of the buckets, row numbers,
// touched rows, pending sightings, who waits in which order, the hand of expiry. Little endian, as every machine that
// we build for. docs/formats.md describes the bytes.
#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

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
  Moment(const Table& table, BeforeImages bucket_images, BeforeImages row_images)
      : table(table),
        buckets(std::move(bucket_images)),
        rows(std::move(row_images)),
        bucket_count(table.index_.count()),
        drained(table.index_.drained()),
        overflow(table.index_.overflow()),
        row_limit(table.arena_.limit()),
        row_count(table.arena_.size()),
        removed_count(table.removed_.size()),
        counters{table.row_limit_, table.forgotten_, table.expire_hand_},
        waiting(table.waiting_),
        policies(table.policies_.by_slot()) {
    buckets.begin(bucket_count);
    rows.begin(row_limit);
    table.index_.watch(&buckets);
    table.arena_.watch(&rows);
    table.moment_ = this;
  }
  ~Moment() { forget(); }

  // While others waited.
  size_t copied_bytes() const {
    return overflow.size() * sizeof(Buckets::Overflow::value_type) + policies.size() * sizeof(*policies.begin()) +
           waiting.parts() * sizeof(std::shared_ptr<void>);
  }

  // In the table's turn: nothing is put aside any more.
  void forget() {
    if (table.moment_ != this) return;
    table.index_.watch(nullptr);
    table.arena_.watch(nullptr);
    table.moment_ = nullptr;
  }

  // Of the file, nearly.
  uint64_t bytes() const {
    return bucket_count * sizeof(Bucket) + row_limit / kBlockRows * 2 * sizeof(uint64_t) +
           row_count * (sizeof(uint64_t) + table.arena_.bytes_per_row()) +
           (removed_count + waiting.size() + 2 * overflow.size()) * sizeof(uint64_t);
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

// --- saving --------------------------------------------------------------------------------------------------------

// One save: a moment on its way into a file, in parts that are copied in the table's turn and written outside of it.
class Table::Writing {
 public:
  Writing(const Table& table, FileWriter& file, const Progress& progress)
      : table_(table), file_(file), progress_(progress) {
    table_.saver_ = std::this_thread::get_id();
  }
  ~Writing() { table_.saver_ = std::thread::id(); }
  Writing(const Writing&) = delete;
  Writing& operator=(const Writing&) = delete;

  void all() {
    begin();
    try {
      head();
      buckets();
      rows();
    } catch (...) {
      end();
      throw;
    }
    end();
  }

 private:
  void begin();
  std::pair<uint64_t, uint64_t> sizes() const;
  void end();
  void head();
  void removed();
  void buckets();
  void rows();
  void add_head(uint32_t first, std::vector<uint8_t>& part) const;
  void add_row(uint32_t row, std::vector<uint8_t>& part);

  // Of a copy that others waited for.
  void count(uint64_t bytes) {
    if (bytes > table_.most_saved_) table_.most_saved_ = bytes;
  }

  const Table& table_;
  FileWriter& file_;
  const Progress& progress_;
  std::unique_ptr<Moment> moment_;
};

void Table::save(const std::string& path, const Progress& progress) const {
  const auto alone = no_save();
  FileWriter file(path, kTableMagic, kTableVersion);
  Writing(*this, file, progress).all();
  file.commit();
}

// Memory for what will be put aside is made ready while nobody waits; should the table outgrow it meanwhile, once more.
void Table::Writing::begin() {
  while (moment_ == nullptr) {
    const auto [buckets, rows] = sizes();
    BeforeImages bucket_images(buckets + buckets / 8, sizeof(Bucket));
    BeforeImages row_images(rows + rows / 8, table_.arena_.image_bytes());
    const auto turn = table_.lock_.turn();
    if (bucket_images.most() < table_.index_.count() || row_images.most() < table_.arena_.limit()) continue;
    moment_ = std::make_unique<Moment>(table_, std::move(bucket_images), std::move(row_images));
    count(moment_->copied_bytes());
  }
}

// Buckets and rows.
std::pair<uint64_t, uint64_t> Table::Writing::sizes() const {
  const auto turn = table_.lock_.turn();
  return {table_.index_.count(), table_.arena_.limit()};
}

void Table::Writing::end() {
  {
    const auto turn = table_.lock_.turn();
    moment_->forget();
  }
  moment_.reset();  // nobody need wait for that
}

void Table::Writing::head() {
  write_options(file_, table_.options_);
  file_.put<uint64_t>(moment_->row_count);
  file_.put<uint64_t>(moment_->row_limit);
  for (const uint64_t counter : moment_->counters) file_.put<uint64_t>(counter);
  write_policies(file_, moment_->policies);
  removed();
  file_.put<uint64_t>(moment_->waiting.size());
  moment_->waiting.for_each_part(
      [&](const uint64_t* keys, size_t count) { file_.bytes(keys, count * sizeof(uint64_t)); });
  file_.put<uint32_t>(moment_->bucket_count);
  file_.put<uint64_t>(moment_->drained);
  file_.put<uint64_t>(moment_->overflow.size());
  for (const auto& [key, entry] : moment_->overflow) {
    file_.put<uint64_t>(key);
    file_.put<uint32_t>(entry.row);
    file_.put<uint32_t>(entry.seen);
  }
}

void Table::Writing::removed() {
  file_.put<uint64_t>(moment_->removed_count);
  std::vector<uint64_t> part;
  for (size_t first = 0; first < moment_->removed_count; first += part.size()) {
    {
      const auto turn = table_.lock_.turn();
      const std::deque<uint64_t>& all = moment_->touched == nullptr ? table_.removed_ : moment_->removed;
      const size_t end = std::min(first + kSavePart / sizeof(uint64_t), moment_->removed_count);
      part.assign(all.begin() + first, all.begin() + end);
      count(part.size() * sizeof(uint64_t));
    }
    file_.bytes(part.data(), part.size() * sizeof(uint64_t));
  }
}

void Table::Writing::buckets() {
  Teller teller(progress_, moment_->bytes());
  BeforeImages& before = moment_->buckets;
  std::vector<Bucket> part(kSavePart / sizeof(Bucket));
  for (uint32_t first = 0; first < moment_->bucket_count; first += part.size()) {
    const uint32_t size = std::min<uint32_t>(part.size(), moment_->bucket_count - first);
    {
      const auto turn = table_.lock_.turn();
      moment_->refuse_lost();
      for (uint32_t i = 0; i < size; ++i) {
        const void* now = &table_.index_.at(first + i);
        std::memcpy(&part[i], before.intact(first + i) ? now : before.image(first + i), sizeof(Bucket));
        before.pass(first + i);
      }
      count(size * sizeof(Bucket));
    }
    file_.bytes(part.data(), size * sizeof(Bucket));
    teller.at(file_.length());
  }
}

// Rows in blocks of 64, each with a head. What a head says of the moment stays true, so that the rows of a block may
// come in several turns.
void Table::Writing::rows() {
  Teller teller(progress_, moment_->bytes());
  const uint64_t rows_a_turn = std::max<uint64_t>(1, kSavePart / std::max<size_t>(table_.arena_.bytes_per_row(), 16));
  std::vector<uint8_t> part;
  for (uint64_t row = 0; row < moment_->row_limit;) {
    part.clear();
    {
      const auto turn = table_.lock_.turn();
      moment_->refuse_lost();
      for (const uint64_t end = std::min(row + rows_a_turn, moment_->row_limit); row < end; ++row) {
        if (row % kBlockRows == 0) add_head(static_cast<uint32_t>(row), part);
        add_row(static_cast<uint32_t>(row), part);
      }
      count(part.size());
    }
    file_.bytes(part.data(), part.size());
    teller.at(file_.length());
  }
  teller.at(moment_->bytes());
}

// Of 64 rows: which are live, which touched, and the counts of the live ones.
void Table::Writing::add_head(uint32_t first, std::vector<uint8_t>& part) const {
  struct {
    uint64_t live = 0, touched = 0;
    uint64_t updates[kBlockRows];
  } head;
  uint32_t count = 0;
  for (uint32_t i = 0; i < kBlockRows; ++i) {
    RowNote note;
    if (moment_->row(first + i, note) == nullptr) continue;
    head.live |= uint64_t{1} << i;
    head.touched |= uint64_t{note.touched} << i;
    head.updates[count++] = note.updates;
  }
  const uint8_t* bytes = reinterpret_cast<const uint8_t*>(&head);
  part.insert(part.end(), bytes, bytes + (2 + count) * sizeof(uint64_t));
}

void Table::Writing::add_row(uint32_t row, std::vector<uint8_t>& part) {
  RowNote note;
  const uint8_t* bytes = moment_->row(row, note);
  if (bytes != nullptr) part.insert(part.end(), bytes, bytes + table_.arena_.bytes_per_row());
  moment_->rows.pass(row);
}

}  // namespace monobeam
