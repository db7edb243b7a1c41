// A table of embedding rows by 64-bit feature id.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "admission.h"
#include "arena.h"
#include "buckets.h"
#include "budget.h"
#include "gradients.h"
#include "hash.h"
#include "lock.h"
#include "optimizers.h"
#include "probe.h"
#include "rows.h"
#include "span.h"
#include "waiting.h"

namespace monobeam {

// What stands for "no row" among handles.
constexpr uint32_t kNone = kEmpty;
static_assert(kMaxRows == kPending, "row numbers and sightings of pending keys share a field");

struct TableOptions {
  uint32_t dim;               // floats of an embedding; 0 for a set of keys
  std::string optimizer;      // see optimizers.h
  Hyper hyper;                // its hyper-parameters, the others have defaults
  uint64_t seed;              // of initial rows and admission draws
  float init_scale;           // initial components are uniform in [-init_scale, init_scale)
  uint64_t pending_limit;     // keys that wait for admission at a time, about 30 bytes each: one is forgotten when so
                              // many began to wait after it
  RowFormat format = RowFormat::kFp32;  // of embeddings in memory
  uint64_t memory_limit = 0;  // bytes of buckets and rows with their notes (see budget.h); 0: none
  std::shared_ptr<Room> room = nullptr;  // what buckets and rows share with other tables; not in files
};

// Told how many bytes of how many are done. What it throws ends the work, and nothing has happened.
using Progress = std::function<void(uint64_t done, uint64_t all)>;

// Counters for tests and metrics.
struct TableStats {
  uint64_t buckets, pending, overflowing, forgotten;
  uint64_t most_saved;  // bytes that a save copied while others waited, at most
  InsertWork work;
};

// Every key is a uint64 without exception, and owns at most one row: `dim` numbers of embedding, the optimizer's state,
// when the key was last seen (seconds), how many updates the row has had. Numbers are float32 wherever they come in or
// go out; within a row the embedding may be shorter (rows.h), the state never is.
//
// Determinism: all results, handles and saved files included, are a pure function of the sequence of calls.
//
// Thread safety: any method may be called from any thread. Methods that change the table run one after another; methods
// marked (reader) run beside them and beside each other, and see every row either before or after an update, never in
// between. They see a batch of updates in slices of some hundred rows. Methods marked (snapshot) see the table between
// two changing calls and do not hold up readers; save() does not hold up changing calls either.
//
// Handles are row numbers. A handle is valid until its key is erased or expires; then it reads as zeros and is skipped
// by apply, until the row is given to another key. Whoever keeps handles over an erase or expire must find them anew.
//
// Errors: std::invalid_argument for what the caller got wrong (the table is unchanged), TableFull or std::bad_alloc
// where memory_limit, the room or the process's own limits leave no more (what was done before stays done, and the
// table is unharmed), FileError for the file system. Linux gives out more memory than there is: without memory_limit, a
// table that outgrows the machine ends with the process.
class Table {
 public:
  explicit Table(const TableOptions& options);
  Table(const Table&) = delete;
  Table& operator=(const Table&) = delete;

  // Reads what save() wrote: a table that answers every further call as the saved one would have, handles included.
  // std::invalid_argument when the file is not a table, of another version, truncated or damaged.
  static std::unique_ptr<Table> load(const std::string& path, const Progress& progress = nullptr);

  const TableOptions& options() const { return options_; }
  size_t dim() const { return options_.dim; }
  size_t state_floats() const { return state_floats_; }
  size_t row_bytes() const { return (dim() + state_floats_) * sizeof(float) + kRowTail; }  // of export_rows()

  void set_policy(uint32_t slot, const SlotPolicy& policy);

  // Has memory for `rows` rows in all ready. Without it the first use of each page costs a fault, now and then a long
  // one; that is all, as growth itself never pauses. TableFull for more than there can be. Other calls that change the
  // table wait until all of it is ready; readers do not.
  void reserve(uint64_t rows);

  // Each occurrence is a sighting at time `now`: it stamps last-seen (which never goes back), and counts towards the
  // admission of a key that has no row. handles[i] = kNone where the key is not admitted.
  void find_or_insert(Span<const uint64_t> keys, uint32_t now, uint32_t* handles);

  // (reader) kNone where there is no row.
  void find(Span<const uint64_t> keys, uint32_t* handles) const;

  // (reader) out: float[N][dim]; zeros for kNone.
  void gather(Span<const uint32_t> handles, float* out) const;

  // (reader) out: float[M][dim], the sum over bag m = handles[offsets[m]..offsets[m + 1]) in order.
  void gather_pooled(Span<const uint32_t> handles, Span<const int64_t> offsets, float* out) const;

  // (reader) rows: float[N][dim], zeros where found[i] is false.
  void lookup(Span<const uint64_t> keys, float* rows, bool* found) const;

  // (reader) find and gather_pooled in one.
  void lookup_pooled(Span<const uint64_t> keys, Span<const int64_t> offsets, float* out) const;

  // One optimizer step for every distinct row of the batch, with the sum of the gradients of the bags it is in, in
  // order of occurrence. The row's update count grows by its occurrences, and it is touched. Without offsets each
  // handle is a bag. Rows in int8 cannot learn: std::invalid_argument. Less than 2^31 handles. A thread keeps the
  // memory that its largest batch took, for its next one.
  void apply_pooled(Span<const uint32_t> handles, Span<const int64_t> offsets, const float* gradients,
                    float learning_rate);

  // (snapshot) The keys whose rows are not what they were at the last clear_touched(): updated since, or erased since
  // and there again. Sorted.
  std::vector<uint64_t> touched() const;

  // (snapshot) The keys whose rows were erased or have expired since the last clear_touched(), and are absent. Sorted.
  // They are remembered until clear_touched(), in 8 bytes each.
  std::vector<uint64_t> expired() const;

  // touched(), expired(), export_rows() and this are calls of their own: an update that another thread makes between
  // them is in none of two commits, unless whoever commits keeps others from changing the table meanwhile.

  void clear_touched();

  // (snapshot) Rows as bytes, little endian: embedding, state, uint32 last-seen seconds, uint32 0, uint64 updates.
  // Every key must have a row.
  void export_rows(Span<const uint64_t> keys, uint8_t* rows) const;

  // Inserts or overwrites; neither touches nor asks for admission. Of equal keys the last wins.
  void import_rows(Span<const uint64_t> keys, const uint8_t* rows);

  // Embeddings alone (values: float[N][dim]); the state becomes that of a new row, last-seen and update count stay, 0
  // in new rows. With ftrl and group_ftrl, whose weights are a function of the state, the values last until the next
  // step.
  void import_values(Span<const uint64_t> keys, const float* values);

  // Returns how many rows there were to erase. Forgets sightings of keys without a row as well.
  size_t erase(Span<const uint64_t> keys);

  // Looks at the next `budget` buckets, at most once at each, and erases what has not been seen for its slot's
  // expire_seconds. Returns the keys that lost a row, sorted. Whenever it is at the first bucket it also looks at all
  // keys outside of buckets, which are hardly any unless somebody chose keys for that.
  std::vector<uint64_t> expire(uint32_t now, uint64_t budget);

  // Erases those of `keys` that expire() would if it came to their buckets now. Returns how many had a row. Whoever
  // calls it before each find_or_insert() at a time that never goes back gets rows whose values do not depend on when
  // expire() is called, nor does who is admitted; their handles do, and what is left of keys that never come again.
  size_t expire_keys(Span<const uint64_t> keys, uint32_t now);

  // Back to an empty table without history; policies stay. Waits for a running save().
  void clear();

  // (snapshot) Sorted.
  std::vector<uint64_t> keys() const;

  size_t size() const;               // rows
  size_t memory_bytes() const;       // of all that grows: what memory_limit bounds, and what is remembered
  uint64_t update_count_sum() const; // over the rows that are there
  TableStats stats() const;

  // (snapshot) Verifies every invariant; std::runtime_error names the broken one.
  void check() const;

  // (snapshot) Of the moment when it begins. Whoever changes the table meanwhile puts aside what was there (before.h),
  // and waits for no longer than it takes to copy kSavePart bytes, or the policies, the keys outside of buckets (hardly
  // any) and pointers to those that wait. Takes, on top of memory_limit, some 6 bytes a row and what is put aside;
  // std::bad_alloc where there is no memory for that: the change goes on, the save does not. Replaces the file at once,
  // when all is on disk. Saves follow one another.
  void save(const std::string& path, const Progress& progress = nullptr) const;

 private:
  static constexpr size_t kSlice = 512;  // rows or keys per section under the lock, at most
  static constexpr size_t kSliceBytes = size_t{1} << 19;  // of rows, unless it is a single group
  static constexpr size_t kStep = Steps::kMost;
  static constexpr size_t kRowTail = 16;  // of an exported row: last-seen, padding, updates
  static constexpr size_t kSavePart = size_t{1} << 18;

  struct NewRow {
    uint64_t key;
    uint32_t row;
  };
  struct Moment;  // save.cpp
  class Writing;  // save.cpp
  class Reading;  // load.cpp

  RowAccess access() const { return {arena_.row(0), arena_.stride(), embedding_bytes_}; }
  bool plain() const { return options_.format == RowFormat::kFp32; }

  uint32_t sight(uint64_t key, uint64_t hash, uint32_t now);
  void sight_unknown(Span<const uint64_t> keys, const uint64_t* hashes, Span<const uint32_t> unknown, uint32_t now,
                     uint32_t* handles);
  Slot find_or_add_row(uint64_t key);
  uint32_t give_row(uint64_t key, Slot slot, bool added);
  void fill_new_rows();
  void drop_pending(uint64_t key);
  void begin_waiting(uint64_t key);
  bool remove(uint64_t key);
  void expire_bucket(uint32_t bucket, uint32_t now, std::vector<uint64_t>& gone);
  void expire_overflowing(uint32_t now, std::vector<uint64_t>& gone);
  bool due(uint64_t key, uint32_t field, uint32_t seen, uint32_t now) const;
  void decode_row(uint32_t handle, float* out) const;
  void sum_rows(Span<const uint32_t> handles, float* scratch, float* out) const;
  void update(const RowGradients& batch, size_t first, size_t end, float learning_rate, float* space);
  float* state_of(uint32_t row) const { return reinterpret_cast<float*>(arena_.row(row) + embedding_bytes_); }
  size_t count_waiting() const;
  void check_handle(uint32_t handle) const;
  void check_rows(const RowGradients& batch) const;
  void check_handles(Span<const uint32_t> handles) const;
  void check_offsets(Span<const int64_t> offsets, size_t keys) const;
  std::unique_lock<std::mutex> no_save() const;

  const TableOptions options_;
  const std::unique_ptr<const Optimizer> optimizer_;
  const size_t state_floats_;
  const InitialRow initial_;
  const size_t embedding_bytes_;    // of a row
  std::vector<float> first_state_;  // of every new row

  mutable TableLock lock_;
  mutable std::mutex saving_;  // taken before lock_
  mutable std::atomic<std::thread::id> saver_{};
  mutable std::atomic<uint64_t> most_saved_{0};  // bytes that a save copied while others waited
  mutable Moment* moment_ = nullptr;             // of the save that runs
  Policies policies_;
  Budget budget_;
  mutable Buckets index_;  // save() watches what changes
  mutable Arena arena_;
  const size_t slice_;  // rows or keys per section under the lock
  uint64_t pending_ = 0;      // entries of index_ without a row
  uint64_t update_sum_ = 0;
  uint64_t row_limit_ = 0;    // handles at and above this were never given out, also before clear()
  uint64_t forgotten_ = 0;    // pending keys that pending_limit made room of
  uint32_t expire_hand_ = 0;  // the next bucket that expire() looks at
  Waiting waiting_;           // every pending key, and some that are not pending any more
  std::unique_ptr<NewRow[]> new_rows_;  // kSlice of them; the first new_count_ were given out and are not yet filled
  size_t new_count_ = 0;
  std::vector<float> new_values_;  // of one of them, where they are not stored as floats
  std::deque<uint64_t> removed_;  // keys; it grows without being copied
  std::atomic<size_t> removed_count_{0};  // of them, for readers
};

}  // namespace monobeam
