// The index of a table: a two-choice bucketised cuckoo hash that grows by linear hashing.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "hash.h"
#include "mapping.h"

namespace monobeam {

class FileReader;
class FileWriter;

// What a slot's row field says. The key field cannot tell emptiness: every uint64 is a key.
constexpr uint32_t kEmpty = 0xffffffff;
constexpr uint32_t kPending = 0x80000000;    // or'ed with the number of sightings of a key not yet admitted
constexpr uint32_t kMaxPending = 0x7ffffffe;  // sightings saturate here; one more would read as kEmpty

inline bool is_row(uint32_t field) { return field < kPending; }
inline bool is_pending(uint32_t field) { return field >= kPending && field != kEmpty; }

constexpr int kSlots = 4;

// One cache line. A hit costs this line and the row's.
struct alignas(64) Bucket {
  uint64_t key[kSlots];
  uint32_t row[kSlots];
  uint32_t seen[kSlots];  // seconds

  void clear() { std::fill(row, row + kSlots, kEmpty); }

  // The row field of a key, kEmpty when it is not here. Free of branches: the field of the one slot with the key and
  // all ones from every other, and an empty slot says all ones whatever key it had.
  uint32_t get(uint64_t wanted) const {
    uint32_t field = kEmpty;
    for (int slot = 0; slot < kSlots; ++slot) field &= row[slot] | (key[slot] == wanted ? 0 : kEmpty);
    return field;
  }

  // The same, and stamps its last-seen time.
  uint32_t stamp(uint64_t wanted, uint32_t now) {
    uint32_t field = kEmpty;
    for (int slot = 0; slot < kSlots; ++slot) {
      const bool here = key[slot] == wanted;
      field &= row[slot] | (here ? 0 : kEmpty);
      seen[slot] = here ? std::max(seen[slot], now) : seen[slot];
    }
    return field;
  }

  int find(uint64_t wanted) const {
    for (int slot = 0; slot < kSlots; ++slot) {
      if (key[slot] == wanted && row[slot] != kEmpty) return slot;
    }
    return -1;
  }

  int free_slot() const {
    for (int slot = 0; slot < kSlots; ++slot) {
      if (row[slot] == kEmpty) return slot;
    }
    return -1;
  }

  int used() const {
    int count = 0;
    for (int slot = 0; slot < kSlots; ++slot) count += row[slot] != kEmpty;
    return count;
  }
};
static_assert(sizeof(Bucket) == 64, "a bucket is one cache line");

// The value of a key in the index.
struct Entry {
  uint32_t row = kEmpty;
  uint32_t seen = 0;
};

// Where an entry lives; null when there is none. Valid until the next insert or erase.
struct Slot {
  uint32_t* row = nullptr;
  uint32_t* seen = nullptr;

  explicit operator bool() const { return row != nullptr; }
};

// Work done by inserts: growth must never pause, which is a bound on work, not on time.
struct InsertWork {
  uint64_t splits = 0;
  uint64_t moves = 0;
  uint32_t most_splits = 0;    // in one insert
  uint32_t most_moves = 0;     // in one insert
  uint32_t most_searched = 0;  // buckets looked at by one displacement search
};

// Invariants (check() of the table verifies them):
//   * with h = hash(key), an entry is in bucket address(low half of h) or address(high half of h), or, when neither
//     they nor a displacement had room, in the overflow map;
//   * address(h) = h mod 2M if that bucket exists, else h mod M, with M <= buckets < 2M, M a power of two;
//   * no key is there twice;
//   * entries <= 3 * buckets, kept by at most one split of one bucket per insert.
// Buckets never move in memory. Not thread-safe.
class Buckets {
 public:
  // The two buckets of a key.
  struct Choice {
    uint32_t first, second;
  };

  Buckets() : memory_(size_t{kMaxBuckets} * sizeof(Bucket)), buckets_(reinterpret_cast<Bucket*>(memory_.data())) {
    reset();
  }

  size_t size() const { return size_; }
  uint32_t count() const { return count_; }
  size_t overflowing() const { return overflow_.size(); }
  const InsertWork& work() const { return work_; }
  size_t bytes() const { return static_cast<size_t>(count_) * sizeof(Bucket) + overflow_.size() * kOverflowBytes; }

  Bucket& at(uint32_t bucket) const { return buckets_[bucket]; }
  void prefetch(uint32_t bucket) const { __builtin_prefetch(&buckets_[bucket]); }

  Choice choose(uint64_t key) const {
    const uint64_t h = mix(key + kGolden);
    return {address(static_cast<uint32_t>(h)), address(static_cast<uint32_t>(h >> 32))};
  }

  // What the overflow map says of a key that is in none of its buckets.
  uint32_t overflowing(uint64_t key) const {
    if (overflow_.empty()) return kEmpty;
    const auto found = overflow_.find(key);
    return found == overflow_.end() ? kEmpty : found->second.row;
  }

  Slot find(uint64_t key) {
    const Choice choice = choose(key);
    for (const uint32_t bucket : {choice.first, choice.second}) {
      Bucket& found = at(bucket);
      const int slot = found.find(key);
      if (slot >= 0) return {&found.row[slot], &found.seen[slot]};
    }
    if (overflow_.empty()) return {};
    const auto found = overflow_.find(key);
    return found == overflow_.end() ? Slot{} : Slot{&found->second.row, &found->second.seen};
  }

  // The same by value; row is kEmpty when the key is absent.
  Entry get(uint64_t key) const {
    const Choice choice = choose(key);
    for (const uint32_t bucket : {choice.first, choice.second}) {
      const Bucket& found = at(bucket);
      const int slot = found.find(key);
      if (slot >= 0) return {found.row[slot], found.seen[slot]};
    }
    if (overflow_.empty()) return {};
    const auto found = overflow_.find(key);
    return found == overflow_.end() ? Entry{} : found->second;
  }

  // The key must be absent. Bounded work: at most one split, one search over kMaxSearch buckets.
  Slot insert(uint64_t key, uint32_t row, uint32_t seen) {
    const InsertWork before = work_;
    if (size_ + 1 > count_ * kLoad) split();
    const Slot slot = place(key, row, seen);
    ++size_;
    work_.most_splits = std::max<uint32_t>(work_.most_splits, work_.splits - before.splits);
    work_.most_moves = std::max<uint32_t>(work_.most_moves, work_.moves - before.moves);
    return slot;
  }

  bool erase(uint64_t key) {
    const Choice choice = choose(key);
    for (const uint32_t bucket : {choice.first, choice.second}) {
      Bucket& found = at(bucket);
      const int slot = found.find(key);
      if (slot < 0) continue;
      found.row[slot] = kEmpty;
      --size_;
      return true;
    }
    if (overflow_.erase(key) == 0) return false;
    --size_;
    return true;
  }

  // Calls visit(key, row field, seen) for every entry, in an order that depends on the history alone.
  template <typename Visit>
  void for_each(Visit visit) const {
    for (uint32_t bucket = 0; bucket < count_; ++bucket) {
      const Bucket& entries = at(bucket);
      for (int slot = 0; slot < kSlots; ++slot) {
        if (entries.row[slot] != kEmpty) visit(entries.key[slot], entries.row[slot], entries.seen[slot]);
      }
    }
    for (const auto& [key, entry] : overflow_) visit(key, entry.row, entry.seen);
  }

  template <typename Visit>
  void for_each_overflowing(Visit visit) const {
    for (const auto& [key, entry] : overflow_) visit(key, entry.row, entry.seen);
  }

  void check() const {
    size_t entries = 0;
    for (uint32_t bucket = 0; bucket < count_; ++bucket) {
      for (int slot = 0; slot < kSlots; ++slot) {
        const Bucket& entry = at(bucket);
        if (entry.row[slot] == kEmpty) continue;
        ++entries;
        const uint64_t key = entry.key[slot];
        const Choice choice = choose(key);
        if (bucket != choice.first && bucket != choice.second) fail(key, "is in a bucket that is none of its two");
        if (entry.find(key) != slot) fail(key, "is twice in one bucket");
        if (bucket == choice.second && choice.first != bucket && at(choice.first).find(key) >= 0) {
          fail(key, "is in both of its buckets");
        }
        if (overflow_.count(key) != 0) fail(key, "is in a bucket and in the overflow map");
      }
    }
    if (entries + overflow_.size() != size_) throw std::runtime_error("index: wrong number of entries");
    if (size_ > count_ * kLoad) throw std::runtime_error("index: too many entries for its buckets");
    if (count_ <= mask_ / 2 || count_ > mask_) throw std::runtime_error("index: bucket count and mask disagree");
  }

  void reset() {
    memory_.give_back(0, size_t{count_} * sizeof(Bucket));
    overflow_.clear();
    drained_ = 0;
    size_ = 0;
    count_ = 0;
    work_ = {};
    resize(kFirstBuckets);
  }

  void write(FileWriter& file) const;  // save.cpp
  void read(FileReader& file);

 private:
  static constexpr uint32_t kFirstBuckets = 8;
  static constexpr uint32_t kHuge = kHugePage / sizeof(Bucket);
  static constexpr size_t kLoad = 3;           // entries per bucket: 0.75; splitting gets dear above 0.85
  static constexpr int kMaxSearch = 128;
  static constexpr size_t kOverflowBytes = 48;  // a node of the map
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
  static constexpr uint32_t kMaxBuckets = 1 << 24;  // sanitizers prepare all of it
#else
  static constexpr uint32_t kMaxBuckets = 0x40000000;  // three keys each: more than there are rows
#endif

  struct Step {  // of the displacement search
    uint32_t bucket;
    int parent;
    int slot;  // in the parent's bucket: the entry that would move here
  };

  [[noreturn]] static void fail(uint64_t key, const char* what) {
    throw std::runtime_error("index: key " + std::to_string(key) + " " + what);
  }

  uint32_t address(uint32_t half) const {
    const uint32_t full = half & mask_;
    return full < count_ ? full : half & (mask_ >> 1);
  }

  uint32_t other(uint64_t key, uint32_t bucket) const {
    const Choice choice = choose(key);
    return choice.first == bucket ? choice.second : choice.first;
  }

  void resize(uint32_t buckets) {
    mask_ = 2 * kFirstBuckets - 1;
    while (mask_ < buckets) mask_ = 2 * mask_ + 1;
    while (count_ < buckets) append_bucket();
  }

  void append_bucket() {
    if (size_t{count_ + 1} * sizeof(Bucket) > memory_.bytes()) {
      throw std::length_error("the table is full: it has room for " + std::to_string(count_ * kLoad) + " keys");
    }
    if (count_ % kHuge == 0 && count_ > 0) memory_.want_huge_pages(size_t{count_} * sizeof(Bucket), kHugePage);
    ++count_;
    at(count_ - 1).clear();
  }

  // Splits the next bucket in turn into itself and a new one at the end. Each entry has a bucket to go to by its
  // own hashes, so nothing else moves.
  void split() {
    const uint32_t old_bucket = count_ - (mask_ + 1) / 2;
    append_bucket();
    const uint32_t new_bucket = count_ - 1;
    Bucket& from = at(old_bucket);
    Bucket& to = at(new_bucket);
    int filled = 0;
    for (int slot = 0; slot < kSlots; ++slot) {
      if (from.row[slot] == kEmpty) continue;
      const Choice choice = choose(from.key[slot]);
      if (choice.first == old_bucket || choice.second == old_bucket) continue;
      copy(from, slot, to, filled++);
      from.row[slot] = kEmpty;
    }
    if (count_ > mask_) mask_ = 2 * mask_ + 1;
    ++work_.splits;
    drain();
  }

  // Gives a few overflowing entries the room that the split may have made, each in turn.
  void drain() {
    for (int attempt = 0; attempt < kSlots && !overflow_.empty(); ++attempt) {
      auto entry = overflow_.upper_bound(drained_);
      if (entry == overflow_.end()) entry = overflow_.begin();
      drained_ = entry->first;
      if (place_free(entry->first, entry->second.row, entry->second.seen)) overflow_.erase(entry);
    }
  }

  Slot place(uint64_t key, uint32_t row, uint32_t seen) {
    if (const Slot slot = place_free(key, row, seen)) return slot;
    if (make_room(choose(key))) return place_free(key, row, seen);
    Entry& entry = overflow_[key] = {row, seen};
    return {&entry.row, &entry.seen};
  }

  // Into the emptier of the two buckets, which keeps displacements rare.
  Slot place_free(uint64_t key, uint32_t row, uint32_t seen) {
    const Choice choice = choose(key);
    Bucket& first = at(choice.first);
    Bucket& second = at(choice.second);
    Bucket& target = second.used() < first.used() ? second : first;
    const int slot = target.free_slot();
    if (slot < 0) return {};
    target.key[slot] = key;
    target.row[slot] = row;
    target.seen[slot] = seen;
    return {&target.row[slot], &target.seen[slot]};
  }

  // Breadth-first search for the shortest chain of moves that frees a slot in one of the two (full) buckets.
  bool make_room(Choice choice) {
    Step steps[kMaxSearch];
    int found = 0;
    steps[found++] = {choice.first, -1, -1};
    if (choice.second != choice.first) steps[found++] = {choice.second, -1, -1};
    for (int head = 0; head < found; ++head) {
      const uint32_t bucket = steps[head].bucket;
      for (int slot = 0; slot < kSlots; ++slot) {
        const uint32_t next = other(at(bucket).key[slot], bucket);
        const int free = at(next).free_slot();
        if (free >= 0) {
          work_.most_searched = std::max<uint32_t>(work_.most_searched, found);
          shift(steps, head, slot, next, free);
          return true;
        }
        if (found < kMaxSearch && !visited(steps, found, next)) steps[found++] = {next, head, slot};
      }
    }
    work_.most_searched = std::max<uint32_t>(work_.most_searched, found);
    return false;
  }

  static bool visited(const Step* steps, int found, uint32_t bucket) {
    return std::any_of(steps, steps + found, [bucket](const Step& step) { return step.bucket == bucket; });
  }

  // Moves the entries along the path from steps[last] back to a root, the last one first into (bucket, slot).
  void shift(const Step* steps, int last, int from_slot, uint32_t bucket, int slot) {
    for (int step = last; step >= 0; step = steps[step].parent) {
      Bucket& from = at(steps[step].bucket);
      copy(from, from_slot, at(bucket), slot);
      from.row[from_slot] = kEmpty;
      bucket = steps[step].bucket;
      slot = from_slot;
      from_slot = steps[step].slot;
      ++work_.moves;
    }
  }

  static void copy(const Bucket& from, int from_slot, Bucket& to, int to_slot) {
    to.key[to_slot] = from.key[from_slot];
    to.row[to_slot] = from.row[from_slot];
    to.seen[to_slot] = from.seen[from_slot];
  }

  Reservation memory_;
  Bucket* buckets_;
  std::map<uint64_t, Entry> overflow_;  // nearly always empty; ordered, so that nothing depends on the library
  uint64_t drained_ = 0;
  size_t size_ = 0;
  uint32_t count_ = 0;
  uint32_t mask_ = 0;  // 2M - 1
  InsertWork work_;
};

}  // namespace monobeam
