// The index of a table: a two-choice bucketised cuckoo hash that grows by linear hashing.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>

#include "before.h"
#include "bits.h"
#include "bucket.h"
#include "budget.h"
#include "hash.h"
#include "mapping.h"

namespace monobeam {

class FileReader;

// Work done by inserts: growth must never pause, which is a bound on work, not on time.
struct InsertWork {
  uint64_t splits = 0;
  uint64_t moves = 0;
  uint32_t most_splits = 0;    // in one insert
  uint32_t most_moves = 0;     // in one insert
  uint32_t most_searched = 0;  // buckets looked at by one displacement search
};

// Invariants (check() verifies them):
//   * with h = hash(key), an entry is in bucket address(low half of h) or address(high half of h), or, when neither
//     they nor a displacement had room, in the overflow map;
//   * address(h) = h mod 2M if that bucket exists, else h mod M, with M <= buckets < 2M, M a power of two;
//   * no key is there twice;
//   * entries <= 3 * buckets, kept by at most one split of one bucket per insert.
// Buckets never move in memory. A bucket is marked when a key in it was sighted since clear_marks(), and the mark goes
// along when the key moves; eight neighbours share one mark, so that all marks stay in the processor's cache. Not
// thread-safe.
class Buckets {
 public:
  // The two buckets of a key.
  struct Choice {
    uint32_t first, second;
  };
  using Overflow = std::map<uint64_t, Entry>;  // nearly always empty; ordered, so that nothing depends on the library

  explicit Buckets(Budget& budget);

  size_t size() const { return size_; }
  uint32_t count() const { return count_; }
  size_t bytes() const {
    return static_cast<size_t>(count_) * sizeof(Bucket) + count_ / kMarked / 8 + overflow_.size() * kOverflowBytes;
  }
  size_t cost() const { return (size_t{count_} + kPageful - 1) / kPageful * kPageCost; }  // for the budget
  const Overflow& overflow() const { return overflow_; }
  uint64_t drained() const { return drained_; }
  const InsertWork& work() const { return work_; }

  static MONOBEAM_INLINE uint64_t hash(uint64_t key) { return mix(key + kGolden); }

  // Buckets as an array, for code that goes through many at once.
  struct View {
    Bucket* buckets;
    uint32_t count, mask;

    MONOBEAM_INLINE uint32_t address(uint32_t half) const {
      const uint32_t full = half & mask;
      return full < count ? full : half & (mask >> 1);
    }
    MONOBEAM_INLINE Choice choose(uint64_t hash) const {
      return {address(static_cast<uint32_t>(hash)), address(static_cast<uint32_t>(hash >> 32))};
    }
  };
  View view() const { return {buckets_, count_, mask_}; }
  Choice choose(uint64_t key) const { return choose_by(hash(key)); }
  Choice choose_by(uint64_t hash) const { return view().choose(hash); }

  const Bucket& at(uint32_t bucket) const { return buckets_[bucket]; }

  Slot find(uint64_t key) { return find(key, choose(key)); }
  Slot find(uint64_t key, Choice choice) {
    for (const uint32_t bucket : {choice.first, choice.second}) {
      const uint32_t slot = at(bucket).scan(key);
      if (slot < kSlots) return slot_of_bucket(bucket, slot);
    }
    return overflow_.empty() ? Slot{} : find_overflowing(key);
  }

  // The same by value; row is kEmpty when the key is absent.
  Entry get(uint64_t key) const {
    const Slot slot = const_cast<Buckets*>(this)->find(key);
    return slot ? Entry{*slot.row, *slot.seen} : Entry{};
  }

  // What the overflow map says of a key that is in none of its buckets.
  uint32_t overflowing(uint64_t key) const {
    if (overflow_.empty()) return kEmpty;
    const auto found = overflow_.find(key);
    return found == overflow_.end() ? kEmpty : found->second.row;
  }

  // The key must be absent; `hash` is its hash. Bounded work: at most one split, one search over kMaxSearch buckets.
  // TableFull when there is no room; nothing has changed then.
  Slot insert(uint64_t key, uint64_t hash, uint32_t row, uint32_t seen);

  bool erase(uint64_t key);

  void prefetch(uint64_t key) const {
    const Choice choice = choose(key);
    __builtin_prefetch(&at(choice.first));
    __builtin_prefetch(&at(choice.second));
  }

  // For a key that will be inserted soon: asks for the buckets that a displacement would look at, if one is likely.
  MONOBEAM_INLINE void prefetch_insert(uint64_t hash) const {
    const Choice choice = choose_by(hash);
    if (at(choice.first).free_slots() | at(choice.second).free_slots()) return;
    for (const uint32_t bucket : {choice.first, choice.second}) {
      for (const uint64_t entry : at(bucket).key) __builtin_prefetch(&at(other(entry, bucket)));
    }
  }

  // Makes room for as many keys in memory, not yet in the table: their first use then costs no page fault.
  void populate(uint64_t keys);

  // For whoever writes through a Slot, or into a bucket that it got by address.
  void keep(Choice choice) {
    keep(choice.first);
    keep(choice.second);
  }
  bool kept() const { return before_ != nullptr; }
  void mark(uint32_t bucket) { marks_.set(bucket / kMarked); }
  void mark(Choice choice) {
    mark(choice.first);
    mark(choice.second);
  }
  void clear_marks() { marks_.clear_all(count_ / kMarked); }

  // Calls visit(key, row field, seen) for every entry, in an order that depends on the history alone.
  template <typename Visit>
  void for_each(Visit visit) const {
    for (uint32_t bucket = 0; bucket < count_; ++bucket) visit_bucket(bucket, visit);
    for_each_overflowing(visit);
  }

  // The same for entries in marked buckets, and overflowing ones.
  template <typename Visit>
  void for_each_marked(Visit visit) const {
    marks_.for_each(count_ / kMarked + 1, [&](uint64_t mark) {
      const uint32_t first = static_cast<uint32_t>(mark * kMarked);
      for (uint32_t bucket = first; bucket < std::min(first + kMarked, count_); ++bucket) visit_bucket(bucket, visit);
    });
    for_each_overflowing(visit);
  }

  template <typename Visit>
  void for_each_overflowing(Visit visit) const {
    for (const auto& [key, entry] : overflow_) visit(key, entry.row, entry.seen);
  }

  void check() const;
  void reset() noexcept;

  // From now on, buckets are put aside before they change; null: no longer.
  void watch(BeforeImages* before) { before_ = before; }

  // Takes over buckets and overflow from a file, in place of what is here.
  void read(FileReader& file);  // load.cpp

 private:
  static constexpr uint32_t kFirstBuckets = 8;
  static constexpr uint32_t kMarked = 8;  // buckets of one mark
  static constexpr uint32_t kHuge = kHugePage / sizeof(Bucket);
  static constexpr uint32_t kPageful = kPage / sizeof(Bucket);
  static constexpr size_t kPageCost = kPage + kPageful / 8;  // with its marks
  static constexpr size_t kLoad = 3;            // entries per bucket: 0.75; splitting gets dear above 0.85
  static constexpr int kMaxSearch = 128;
  static constexpr size_t kOverflowBytes = 48;  // a node of the map
  static constexpr size_t kMostBytes = std::min(kMostReserved, (size_t{1} << 30) * sizeof(Bucket));

  struct Place {
    uint32_t bucket;
    int slot;  // -1: there is none
  };

  struct Step {  // of the displacement search
    uint32_t bucket;
    int parent;
    int slot;  // in the parent's bucket: the entry that would move here
  };

  MONOBEAM_INLINE uint32_t other(uint64_t key, uint32_t bucket) const {
    const Choice choice = choose(key);
    return choice.first == bucket ? choice.second : choice.first;
  }

  void keep(uint32_t bucket) {
    if (before_ == nullptr) return;
    if (uint8_t* image = before_->keep(bucket)) std::memcpy(image, &buckets_[bucket], sizeof(Bucket));
  }
  Bucket& edit(uint32_t bucket) {
    keep(bucket);
    return buckets_[bucket];
  }
  Slot slot_of_bucket(uint32_t bucket, uint32_t slot) {
    return {&buckets_[bucket].row[slot], &buckets_[bucket].seen[slot]};
  }

  template <typename Visit>
  void visit_bucket(uint32_t bucket, Visit visit) const {
    const Bucket& entries = at(bucket);
    for (int slot = 0; slot < kSlots; ++slot) {
      if (entries.row[slot] != kEmpty) visit(entries.key[slot], entries.row[slot], entries.seen[slot]);
    }
  }

  Slot find_overflowing(uint64_t key);
  void resize(uint32_t buckets);
  void append_bucket();
  void split();
  void drain();
  Place free_place(Choice choice) const;
  Place make_room(Choice choice);
  Place shift(const Step* steps, int last, int from_slot, Place to);
  Slot put(Place place, uint64_t key, uint32_t row, uint32_t seen);
  void move(uint32_t from, int from_slot, uint32_t to, int to_slot);

  Budget& budget_;
  Reservation memory_;
  Bucket* buckets_;
  Bits marks_;
  Overflow overflow_;
  uint64_t drained_ = 0;
  size_t size_ = 0;
  uint32_t count_ = 0;
  uint32_t mask_ = 0;  // 2M - 1
  InsertWork work_;
  BeforeImages* before_ = nullptr;
};

}  // namespace monobeam
