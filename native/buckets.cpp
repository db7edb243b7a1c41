#include "buckets.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace monobeam {
namespace {

[[noreturn]] void fail_key(uint64_t key, const char* what) {
  throw std::runtime_error("index: key " + std::to_string(key) + " " + what);
}

// How many bits of four are set.
int count_bits(uint32_t four) { return 0x4332322132212110 >> four * 4 & 15; }

}  // namespace

Buckets::Buckets(Budget& budget)
    : budget_(budget),
      memory_(Reservation::at_most(kMostBytes)),
      buckets_(reinterpret_cast<Bucket*>(memory_.data())),
      marks_(memory_.bytes() / sizeof(Bucket) / kMarked) {
  resize(kFirstBuckets);
}

// The first page stays, as another table of the room may be waiting for it.
void Buckets::reset() noexcept {
  budget_.give(cost() - kPageCost);
  memory_.give_back(0, size_t{count_} * sizeof(Bucket));
  clear_marks();
  overflow_.clear();
  drained_ = 0;
  size_ = 0;
  count_ = kFirstBuckets;
  mask_ = 2 * kFirstBuckets - 1;
  work_ = {};
  std::for_each(buckets_, buckets_ + count_, [](Bucket& bucket) { bucket.clear(); });
}

void Buckets::resize(uint32_t buckets) {
  mask_ = 2 * kFirstBuckets - 1;
  while (mask_ < buckets) mask_ = 2 * mask_ + 1;
  while (count_ < buckets) append_bucket();
}

// --- inserting and erasing -----------------------------------------------------------------------------------------

Slot Buckets::insert(uint64_t key, uint64_t hash, uint32_t row, uint32_t seen) {
  const bool full = size_ + 1 > count_ * kLoad;
  if (full) split();
  work_.most_splits = std::max<uint32_t>(work_.most_splits, full);
  const Choice choice = choose_by(hash);
  Place place = free_place(choice);
  if (place.slot < 0) place = make_room(choice);
  if (place.slot >= 0) {
    ++size_;
    return put(place, key, row, seen);
  }
  Entry& entry = overflow_[key] = {row, seen};
  ++size_;  // only now, as the map may have found no room
  return {&entry.row, &entry.seen};
}

bool Buckets::erase(uint64_t key) {
  const Choice choice = choose(key);
  for (const uint32_t bucket : {choice.first, choice.second}) {
    const uint32_t slot = at(bucket).scan(key);
    if (slot >= kSlots) continue;
    edit(bucket).row[slot] = kEmpty;
    --size_;
    return true;
  }
  if (overflow_.erase(key) == 0) return false;
  --size_;
  return true;
}

Slot Buckets::find_overflowing(uint64_t key) {
  const auto found = overflow_.find(key);
  return found == overflow_.end() ? Slot{} : Slot{&found->second.row, &found->second.seen};
}

// In the emptier of the two buckets, which keeps displacements rare.
Buckets::Place Buckets::free_place(Choice choice) const {
  const uint32_t first = at(choice.first).free_slots(), second = at(choice.second).free_slots();
  const bool take_second = count_bits(second) > count_bits(first);
  const uint32_t free = take_second ? second : first;
  return {take_second ? choice.second : choice.first, free == 0 ? -1 : __builtin_ctz(free)};
}

Slot Buckets::put(Place place, uint64_t key, uint32_t row, uint32_t seen) {
  Bucket& target = edit(place.bucket);
  target.key[place.slot] = key;
  target.row[place.slot] = row;
  target.seen[place.slot] = seen;
  mark(place.bucket);
  return slot_of_bucket(place.bucket, place.slot);
}

// --- growth --------------------------------------------------------------------------------------------------------

void Buckets::append_bucket() {
  if (size_t{count_ + 1} * sizeof(Bucket) > memory_.bytes()) {
    throw TableFull("its index has room for " + std::to_string(count_ * kLoad) + " keys");
  }
  if (count_ % kPageful == 0) budget_.take(kPageCost);
  if (count_ % kHuge == 0 && count_ > 0) memory_.want_huge_pages(size_t{count_} * sizeof(Bucket), kHugePage);
  ++count_;
  buckets_[count_ - 1].clear();
}

void Buckets::populate(uint64_t keys) {
  const uint64_t wanted = std::min(keys / kLoad + 1, memory_.bytes() / sizeof(Bucket));
  if (wanted > count_) memory_.populate(size_t{count_} * sizeof(Bucket), (wanted - count_) * sizeof(Bucket));
}

// Splits the next bucket in turn into itself and a new one at the end. Each entry has a bucket to go to by its own
// hashes, so nothing else moves.
void Buckets::split() {
  const uint32_t old_bucket = count_ - (mask_ + 1) / 2;
  keep(old_bucket);
  append_bucket();
  const uint32_t new_bucket = count_ - 1;
  const Bucket& from = at(old_bucket);
  int filled = 0;
  for (int slot = 0; slot < kSlots; ++slot) {
    if (from.row[slot] == kEmpty) continue;
    const Choice choice = choose(from.key[slot]);
    if (choice.first == old_bucket || choice.second == old_bucket) continue;
    move(old_bucket, slot, new_bucket, filled++);
  }
  if (count_ > mask_) mask_ = 2 * mask_ + 1;
  ++work_.splits;
  if (!overflow_.empty()) drain();
}

// Gives a few overflowing entries the room that the split may have made, each in turn.
void Buckets::drain() {
  for (int attempt = 0; attempt < kSlots && !overflow_.empty(); ++attempt) {
    auto entry = overflow_.upper_bound(drained_);
    if (entry == overflow_.end()) entry = overflow_.begin();
    drained_ = entry->first;
    const Place place = free_place(choose(entry->first));
    if (place.slot < 0) continue;
    put(place, entry->first, entry->second.row, entry->second.seen);
    overflow_.erase(entry);
  }
}

// Breadth-first search for the shortest chain of moves that frees a place in one of the two (full) buckets.
Buckets::Place Buckets::make_room(Choice choice) {
  Step steps[kMaxSearch];
  int found = 0;
  const auto look_from = [&](uint32_t bucket, int parent, int slot) {
    const bool known = std::any_of(steps, steps + found, [&](const Step& step) { return step.bucket == bucket; });
    if (found < kMaxSearch && !known) steps[found++] = {bucket, parent, slot};
  };
  look_from(choice.first, -1, -1);
  look_from(choice.second, -1, -1);
  for (int head = 0; head < found; ++head) {
    const uint32_t bucket = steps[head].bucket;
    uint32_t next[kSlots];
    for (int slot = 0; slot < kSlots; ++slot) {
      next[slot] = other(at(bucket).key[slot], bucket);
      __builtin_prefetch(&at(next[slot]));
    }
    for (int slot = 0; slot < kSlots; ++slot) {
      const uint32_t free = at(next[slot]).free_slots();
      if (free == 0) continue;
      work_.most_searched = std::max<uint32_t>(work_.most_searched, found);
      return shift(steps, head, slot, {next[slot], __builtin_ctz(free)});
    }
    for (int slot = 0; slot < kSlots; ++slot) look_from(next[slot], head, slot);
  }
  work_.most_searched = std::max<uint32_t>(work_.most_searched, found);
  return {0, -1};
}

// Moves the entries along the path from steps[last] back to a root, the last one first; the place that becomes free.
Buckets::Place Buckets::shift(const Step* steps, int last, int from_slot, Place to) {
  uint32_t moves = 0;
  for (int step = last; step >= 0; step = steps[step].parent, ++moves) {
    move(steps[step].bucket, from_slot, to.bucket, to.slot);
    to = {steps[step].bucket, from_slot};
    from_slot = steps[step].slot;
  }
  work_.moves += moves;
  work_.most_moves = std::max(work_.most_moves, moves);
  return to;
}

void Buckets::move(uint32_t from, int from_slot, uint32_t to, int to_slot) {
  Bucket& source = edit(from);
  Bucket& target = edit(to);
  target.key[to_slot] = source.key[from_slot];
  target.row[to_slot] = source.row[from_slot];
  target.seen[to_slot] = source.seen[from_slot];
  source.row[from_slot] = kEmpty;
  if (marks_.test(from / kMarked)) mark(to);
}

// --- invariants ----------------------------------------------------------------------------------------------------

void Buckets::check() const {
  constexpr uint32_t kAhead = 16;
  size_t entries = 0;
  for (uint32_t bucket = 0; bucket < count_; ++bucket) {
    // An entry in its second bucket must not be in the first one too.
    if (bucket + kAhead < count_) {
      for (const uint64_t key : at(bucket + kAhead).key) __builtin_prefetch(&at(choose(key).first));
    }
    for (uint32_t slot = 0; slot < kSlots; ++slot) {
      const Bucket& entry = at(bucket);
      if (entry.row[slot] == kEmpty) continue;
      ++entries;
      const uint64_t key = entry.key[slot];
      const Choice choice = choose(key);
      if (bucket != choice.first && bucket != choice.second) fail_key(key, "is in a bucket that is none of its two");
      for (uint32_t other = 0; other < slot; ++other) {
        if (entry.row[other] != kEmpty && entry.key[other] == key) fail_key(key, "is twice in one bucket");
      }
      if (bucket == choice.second && choice.first != bucket && at(choice.first).scan(key) < kSlots) {
        fail_key(key, "is in both of its buckets");
      }
      if (overflow_.count(key) != 0) fail_key(key, "is in a bucket and in the overflow map");
    }
  }
  if (entries + overflow_.size() != size_) throw std::runtime_error("index: wrong number of entries");
  if (size_ > count_ * kLoad) throw std::runtime_error("index: too many entries for its buckets");
  if (count_ <= mask_ / 2 || count_ > mask_) throw std::runtime_error("index: bucket count and mask disagree");
}

}  // namespace monobeam
