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
      memory_(kMostBytes),
      buckets_(reinterpret_cast<Bucket*>(memory_.data())),
      marks_(memory_.bytes() / sizeof(Bucket)) {
  reset();
}

void Buckets::reset() {
  budget_.give((size_t{count_} + kPageful - 1) / kPageful * kPage);
  memory_.give_back(0, size_t{count_} * sizeof(Bucket));
  marks_.clear_all(count_);
  overflow_.clear();
  drained_ = 0;
  size_ = 0;
  count_ = 0;
  work_ = {};
  resize(kFirstBuckets);
}

void Buckets::resize(uint32_t buckets) {
  mask_ = 2 * kFirstBuckets - 1;
  while (mask_ < buckets) mask_ = 2 * mask_ + 1;
  while (count_ < buckets) append_bucket();
}

// --- inserting and erasing -----------------------------------------------------------------------------------------

Slot Buckets::insert(uint64_t key, uint32_t row, uint32_t seen) {
  const InsertWork before = work_;
  if (size_ + 1 > count_ * kLoad) split();
  const Slot slot = place(key, row, seen);
  ++size_;
  work_.most_splits = std::max<uint32_t>(work_.most_splits, work_.splits - before.splits);
  work_.most_moves = std::max<uint32_t>(work_.most_moves, work_.moves - before.moves);
  return slot;
}

bool Buckets::erase(uint64_t key) {
  const Choice choice = choose(key);
  for (const uint32_t bucket : {choice.first, choice.second}) {
    const uint32_t slot = at(bucket).find(key);
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

Slot Buckets::place(uint64_t key, uint32_t row, uint32_t seen) {
  const Choice choice = choose(key);
  if (const Slot slot = place_free(key, choice, row, seen)) return slot;
  if (make_room(choice)) return place_free(key, choice, row, seen);
  Entry& entry = overflow_[key] = {row, seen};
  return {&entry.row, &entry.seen};
}

// Into the emptier of the two buckets, which keeps displacements rare.
Slot Buckets::place_free(uint64_t key, Choice choice, uint32_t row, uint32_t seen) {
  const uint32_t first = at(choice.first).free_slots(), second = at(choice.second).free_slots();
  const bool take_second = count_bits(second) > count_bits(first);
  const uint32_t free = take_second ? second : first, bucket = take_second ? choice.second : choice.first;
  if (free == 0) return {};
  const int slot = __builtin_ctz(free);
  Bucket& target = edit(bucket);
  target.key[slot] = key;
  target.row[slot] = row;
  target.seen[slot] = seen;
  mark(bucket);
  return slot_of_bucket(bucket, slot);
}

// --- growth --------------------------------------------------------------------------------------------------------

void Buckets::append_bucket() {
  if (size_t{count_ + 1} * sizeof(Bucket) > memory_.bytes()) {
    throw TableFull("its index has room for " + std::to_string(count_ * kLoad) + " keys");
  }
  if (count_ % kPageful == 0) budget_.take(kPage);
  if (count_ % kHuge == 0 && count_ > 0) memory_.want_huge_pages(size_t{count_} * sizeof(Bucket), kHugePage);
  ++count_;
  buckets_[count_ - 1].clear();
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
    if (place_free(entry->first, choose(entry->first), entry->second.row, entry->second.seen)) overflow_.erase(entry);
  }
}

// Breadth-first search for the shortest chain of moves that frees a slot in one of the two (full) buckets.
bool Buckets::make_room(Choice choice) {
  Step steps[kMaxSearch];
  int found = 0;
  steps[found++] = {choice.first, -1, -1};
  if (choice.second != choice.first) steps[found++] = {choice.second, -1, -1};
  for (int head = 0; head < found; ++head) {
    const uint32_t bucket = steps[head].bucket;
    uint32_t next[kSlots];
    for (int slot = 0; slot < kSlots; ++slot) {
      next[slot] = other(at(bucket).key[slot], bucket);
      __builtin_prefetch(&at(next[slot]));
    }
    for (int slot = 0; slot < kSlots; ++slot) {
      if (const uint32_t free = at(next[slot]).free_slots()) {
        work_.most_searched = std::max<uint32_t>(work_.most_searched, found);
        shift(steps, head, slot, next[slot], __builtin_ctz(free));
        return true;
      }
      const bool known =
          std::any_of(steps, steps + found, [&](const Step& step) { return step.bucket == next[slot]; });
      if (found < kMaxSearch && !known) steps[found++] = {next[slot], head, slot};
    }
  }
  work_.most_searched = std::max<uint32_t>(work_.most_searched, found);
  return false;
}

// Moves the entries along the path from steps[last] back to a root, the last one first into (bucket, slot).
void Buckets::shift(const Step* steps, int last, int from_slot, uint32_t bucket, int slot) {
  for (int step = last; step >= 0; step = steps[step].parent) {
    move(steps[step].bucket, from_slot, bucket, slot);
    bucket = steps[step].bucket;
    slot = from_slot;
    from_slot = steps[step].slot;
    ++work_.moves;
  }
}

void Buckets::move(uint32_t from, int from_slot, uint32_t to, int to_slot) {
  Bucket& source = edit(from);
  Bucket& target = edit(to);
  target.key[to_slot] = source.key[from_slot];
  target.row[to_slot] = source.row[from_slot];
  target.seen[to_slot] = source.seen[from_slot];
  source.row[from_slot] = kEmpty;
  if (marks_.test(from)) mark(to);
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
      if (bucket == choice.second && choice.first != bucket && at(choice.first).find(key) < kSlots) {
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
