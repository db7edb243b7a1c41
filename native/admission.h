// Which ids get a row, and for how long they keep it: per slot.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "bucket.h"
#include "hash.h"
#include "shown.h"

namespace monobeam {

constexpr uint32_t kSlotIds = 0x8000;

// Feature ids carry their slot in 15 bits above the 48 bits of the value.
inline uint32_t slot_of(uint64_t key) { return key >> 48 & (kSlotIds - 1); }

struct SlotPolicy {
  uint32_t admit_count = 0;      // sightings before a key gets a row; 0 and 1: at once
  double admit_probability = 1;  // of each sighting from then on
  uint32_t expire_seconds = 0;   // a row goes so long after its last sighting; 0: never
  uint32_t pending_seconds = 0;  // sightings of a key without a row count no more so long after the last; 0: as rows
};

// Sightings are counted exactly in the key's own slot of the index, so any threshold works, and the draws are a pure
// function of key, sighting and seed: the same ids are admitted on every machine and on every replay.
class Policies {
 public:
  explicit Policies(uint64_t seed) : seed_(seed) {}
  Policies(const Policies&) = delete;
  Policies& operator=(const Policies&) = delete;

  void set(uint32_t slot, const SlotPolicy& policy) {
    if (slot >= kSlotIds) {
      throw std::invalid_argument("slot=" + std::to_string(slot) + " must be in [0, " + std::to_string(kSlotIds - 1) +
                                  "]");
    }
    if (policy.admit_count > kMaxPending) {
      throw std::invalid_argument("admit_count=" + std::to_string(policy.admit_count) + " must be in [0, " +
                                  std::to_string(kMaxPending) + "]");
    }
    if (!(policy.admit_probability >= 0 && policy.admit_probability <= 1)) {
      throw std::invalid_argument("admit_probability=" + shown(policy.admit_probability) + " must be in [0, 1]");
    }
    quick_.resize(kSlotIds);
    quick_[slot] = &(by_slot_[slot] = policy);
  }

  bool none() const { return by_slot_.empty(); }
  const std::map<uint32_t, SlotPolicy>& by_slot() const { return by_slot_; }

  // Whether the n-th sighting (from 1) of a key without a row gives it one.
  bool admits(uint64_t key, uint32_t n) const {
    const SlotPolicy* policy = find(key);
    if (policy == nullptr) return true;
    if (n < policy->admit_count) return false;
    return policy->admit_probability >= 1 || uniform_draw(key, n, seed_) < policy->admit_probability;
  }

  // Whether such keys ever go.
  bool forgets(uint64_t key) const {
    const SlotPolicy* policy = find(key);
    return policy != nullptr && (policy->expire_seconds | policy->pending_seconds) > 0;
  }

  bool expired(uint64_t key, uint32_t seen, uint32_t now) const {
    const SlotPolicy* policy = find(key);
    return policy != nullptr && passed(policy->expire_seconds, seen, now);
  }

  // The same of a key without a row.
  bool lapsed(uint64_t key, uint32_t seen, uint32_t now) const {
    const SlotPolicy* policy = find(key);
    if (policy == nullptr) return false;
    return passed(policy->pending_seconds > 0 ? policy->pending_seconds : policy->expire_seconds, seen, now);
  }

 private:
  static bool passed(uint32_t seconds, uint32_t seen, uint32_t now) {
    return seconds > 0 && static_cast<uint64_t>(seen) + seconds <= now;
  }

  const SlotPolicy* find(uint64_t key) const { return quick_.empty() ? nullptr : quick_[slot_of(key)]; }

  uint64_t seed_;
  std::map<uint32_t, SlotPolicy> by_slot_;
  std::vector<const SlotPolicy*> quick_;  // by slot; nodes of a map stay where they are
};

}  // namespace monobeam
