// The table written the obvious way, in maps.
#pragma once

#include <algorithm>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "expect.h"
#include "table.h"

namespace monobeam {

using Keys = std::vector<uint64_t>;
using Floats = std::vector<float>;

// Zeros in memory that is there even if there are none.
inline Floats zeros(size_t size) {
  Floats values;
  values.reserve(size + 1);
  values.resize(size);
  return values;
}

struct TwinRow {
  Floats values, state;
  uint32_t seen;
  uint64_t updates = 0;
  uint32_t handle = kNone;  // once it is known, it must stay
};

class Twin {
 public:
  explicit Twin(const TableOptions& options)
      : options_(options),
        optimizer_(make_optimizer(options.optimizer, options.hyper)),
        initial_(options.seed, options.init_scale) {}

  const std::unordered_map<uint64_t, TwinRow>& rows() const { return rows_; }
  size_t pending() const { return pending_.size(); }
  size_t forgotten() const { return forgotten_; }
  size_t state_floats() const { return optimizer_->state_floats(options_.dim); }

  TwinRow* find(uint64_t key) {
    const auto found = rows_.find(key);
    return found == rows_.end() ? nullptr : &found->second;
  }

  void set_policy(uint32_t slot, const SlotPolicy& policy) { policies_[slot] = policy; }

  // Whether the key has a row then.
  bool sight(uint64_t key, uint32_t now) {
    if (TwinRow* row = find(key)) {
      row->seen = std::max(row->seen, now);
      return true;
    }
    const SlotPolicy policy = policy_of(key);
    const auto [place, added] = pending_.emplace(key, Waiting{0, now});
    Waiting& waiting = place->second;
    if (lapsed(key, waiting.seen, now)) waiting.sightings = 0;
    ++waiting.sightings;
    waiting.seen = std::max(waiting.seen, now);
    if (waiting.sightings < policy.admit_count ||
        uniform_draw(key, waiting.sightings, options_.seed) >= policy.admit_probability) {
      if (added) wait(key);
      return false;
    }
    add(key, waiting.seen);
    return true;
  }

  void wait(uint64_t key) {
    waiting_.push_back(key);
    if (waiting_.size() <= options_.pending_limit) return;
    forgotten_ += pending_.erase(waiting_.front());
    waiting_.pop_front();
  }

  TwinRow& add(uint64_t key, uint32_t seen) {
    const auto waiting = pending_.find(key);
    if (waiting != pending_.end()) {
      seen = std::max(seen, waiting->second.seen);
      pending_.erase(waiting);
    }
    TwinRow& row = rows_[key];
    row.values = zeros(options_.dim);
    row.state = zeros(state_floats());
    row.seen = seen;
    initial_.fill(key, row.values.data(), options_.dim);
    optimizer_->init(row.state.data(), options_.dim);
    return row;
  }

  TwinRow& find_or_add(uint64_t key) {
    TwinRow* row = find(key);
    return row != nullptr ? *row : add(key, 0);
  }

  void import_values(uint64_t key, const float* values) {
    TwinRow& row = find_or_add(key);
    row.values.assign(values, values + options_.dim);
    optimizer_->init(row.state.data(), options_.dim);
  }

  // Gradients of bags of keys; sums in order of occurrence.
  void apply(const Keys& keys, const std::vector<int64_t>& offsets, const Floats& gradients, float rate) {
    std::map<uint64_t, Floats> sums;
    Floats scratch;
    for (size_t bag = 0; bag + 1 < offsets.size(); ++bag) {
      const float* gradient = gradients.data() + bag * options_.dim;
      for (int64_t at = offsets[bag]; at < offsets[bag + 1]; ++at) {
        TwinRow* row = find(keys[at]);
        if (row == nullptr) continue;
        ++row->updates;
        Floats& sum = sums[keys[at]];
        if (sum.empty()) {
          sum.assign(gradient, gradient + options_.dim);
        } else {
          for (size_t i = 0; i < options_.dim; ++i) sum[i] += gradient[i];
        }
      }
    }
    for (const auto& [key, sum] : sums) {
      TwinRow& row = rows_[key];
      float *weights = row.values.data(), *state = row.state.data();
      const float* gradient = sum.data();
      scratch.resize(optimizer_->scratch_floats(options_.dim));
      optimizer_->steps({&weights, &state, &gradient, 1, options_.dim, rate, scratch.data()});
      updated_.insert(key);
    }
  }

  bool remove(uint64_t key) {
    pending_.erase(key);
    if (rows_.erase(key) == 0) return false;
    updated_.erase(key);
    removed_.insert(key);
    return true;
  }

  // Keys that lose their row, sorted.
  Keys expire(uint32_t now) {
    Keys gone, waiting;
    for (const auto& row : rows_) {
      if (due(row.first, now)) gone.push_back(row.first);
    }
    for (const auto& sightings : pending_) {
      if (due(sightings.first, now)) waiting.push_back(sightings.first);
    }
    for (const uint64_t key : gone) remove(key);
    for (const uint64_t key : waiting) pending_.erase(key);
    std::sort(gone.begin(), gone.end());
    return gone;
  }

  // Whether expire() takes it.
  bool due(uint64_t key, uint32_t now) const {
    const auto row = rows_.find(key);
    if (row != rows_.end()) return passed(policy_of(key).expire_seconds, row->second.seen, now);
    const auto waiting = pending_.find(key);
    return waiting != pending_.end() && lapsed(key, waiting->second.seen, now);
  }

  Keys keys() const {
    Keys keys;
    for (const auto& row : rows_) keys.push_back(row.first);
    std::sort(keys.begin(), keys.end());
    return keys;
  }

  Keys touched() const {
    Keys keys;
    for (const auto& row : rows_) {
      if (updated_.count(row.first) + removed_.count(row.first) > 0) keys.push_back(row.first);
    }
    std::sort(keys.begin(), keys.end());
    return keys;
  }

  Keys expired() const {
    Keys keys;
    for (const uint64_t key : removed_) {
      if (rows_.count(key) == 0) keys.push_back(key);
    }
    std::sort(keys.begin(), keys.end());
    return keys;
  }

  void clear_touched() {
    updated_.clear();
    removed_.clear();
  }

  void clear() {
    rows_.clear();
    pending_.clear();
    waiting_.clear();
    forgotten_ = 0;
    clear_touched();
  }

  uint64_t updates() const {
    uint64_t sum = 0;
    for (const auto& row : rows_) sum += row.second.updates;
    return sum;
  }

 private:
  struct Waiting {
    uint32_t sightings, seen;
  };

  static bool passed(uint32_t seconds, uint32_t seen, uint32_t now) {
    return seconds > 0 && uint64_t{seen} + seconds <= now;
  }

  SlotPolicy policy_of(uint64_t key) const {
    const auto found = policies_.find(key >> 48 & 0x7fff);
    return found == policies_.end() ? SlotPolicy{} : found->second;
  }

  bool lapsed(uint64_t key, uint32_t seen, uint32_t now) const {
    const SlotPolicy policy = policy_of(key);
    return passed(policy.pending_seconds > 0 ? policy.pending_seconds : policy.expire_seconds, seen, now);
  }

  TableOptions options_;
  std::unique_ptr<const Optimizer> optimizer_;
  InitialRow initial_;
  std::unordered_map<uint64_t, TwinRow> rows_;
  std::unordered_map<uint64_t, Waiting> pending_;
  std::deque<uint64_t> waiting_;  // in order of their first sighting, also those that wait no more
  uint64_t forgotten_ = 0;
  std::map<uint32_t, SlotPolicy> policies_;
  std::unordered_set<uint64_t> updated_, removed_;
};

}  // namespace monobeam
