#include "probe.h"

#include <algorithm>
#include <cstring>

#include "widths.h"

namespace monobeam {
namespace {

constexpr size_t kGroup = 16;
constexpr size_t kLag = 2;          // groups that begin meanwhile, before the next step of one
constexpr size_t kAhead = 32;       // rows, where their numbers are known
constexpr size_t kMostLines = 8;    // of a row; the rest comes in sequence, which the machine sees by itself

// What is known of a group on its way through the pipeline.
struct Group {
  uint32_t first[kGroup], second[kGroup];  // buckets
  uint32_t left[kGroup];                   // those not in their first bucket
  size_t rest;
};

MONOBEAM_INLINE void prefetch_row(const RowAccess& access, uint32_t row) {
  const uint8_t* data = access.rows + row * access.stride;
  __builtin_prefetch(data);
  for (size_t line = 64; line < std::min(access.bytes, kMostLines * 64); line += 64) __builtin_prefetch(data + line);
}

// A call of memcpy for each row would cost more than the row.
MONOBEAM_INLINE void copy_row(const RowAccess& access, uint32_t row, float* out) {
  const uint8_t* from = access.rows + size_t{row} * access.stride;
  size_t at = 0;
  for (; at + 64 <= access.bytes; at += 64) std::memcpy(reinterpret_cast<uint8_t*>(out) + at, from + at, 64);
  for (; at < access.bytes; at += 4) std::memcpy(reinterpret_cast<uint8_t*>(out) + at, from + at, 4);
}

MONOBEAM_INLINE void copy_or_zeros(const RowAccess& access, uint32_t row, float* out) {
  if (__builtin_expect(row != kEmpty, 1)) {
    copy_row(access, row, out);
  } else {
    std::memset(out, 0, access.bytes);
  }
}

// What memory has to bring is asked for some steps before it is looked at. Steps follow one another with few keys
// each: the machine waits as soon as more is asked for than it can fetch at a time.
template <typename... Steps>
MONOBEAM_INLINE void pipeline(size_t keys, Steps... steps) {
  constexpr size_t kGroups = 8;
  static_assert(kGroups > (sizeof...(steps) - 1) * kLag, "a group must last until its last step");
  Group groups[kGroups];
  const size_t count = (keys + kGroup - 1) / kGroup;
  for (size_t turn = 0; turn < count + (sizeof...(steps) - 1) * kLag; ++turn) {
    size_t number = turn;
    const auto run = [&](auto& step) __attribute__((always_inline)) {
      if (number < count) step(number * kGroup, std::min(kGroup, keys - number * kGroup), groups[number % kGroups]);
      number -= kLag;
    };
    (run(steps), ...);
  }
}

#define MONOBEAM_STEP \
  [&](size_t first, [[maybe_unused]] size_t count, [[maybe_unused]] Group& group) __attribute__((always_inline))

MONOBEAM_INLINE void choose(const Buckets::View& view, const uint64_t* keys, size_t count, uint64_t* hashes,
                            Group& group) {
  for (size_t i = 0; i < count; ++i) {
    const uint64_t hash = Buckets::hash(keys[i]);
    const Buckets::Choice choice = view.choose(hash);
    group.first[i] = choice.first;
    group.second[i] = choice.second;
    __builtin_prefetch(&view.buckets[choice.first]);
    if (hashes != nullptr) hashes[i] = hash;
  }
}

// Free of branches, as which bucket a key is in cannot be foreseen: the second one is asked for in any case.
MONOBEAM_INLINE void look_first(const Buckets::View& view, const uint64_t* keys, size_t count, Group& group,
                                uint32_t* handles) {
  size_t rest = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t field = view.buckets[group.first[i]].get(keys[i]);
    __builtin_prefetch(&view.buckets[group.second[i]]);
    handles[i] = field;
    group.left[rest] = static_cast<uint32_t>(i);
    rest += field == kEmpty;
  }
  group.rest = rest;
}

// With `access`, asks for the rows as well.
MONOBEAM_INLINE void look_second(const Buckets& index, const Buckets::View& view, const uint64_t* keys, size_t count,
                                 const RowAccess* access, const Group& group, uint32_t* handles) {
  for (size_t k = 0; k < group.rest; ++k) {
    const uint32_t i = group.left[k];
    uint32_t field = view.buckets[group.second[i]].get(keys[i]);
    if (__builtin_expect(field == kEmpty, 0)) field = index.overflowing(keys[i]);
    handles[i] = field;
  }
  for (size_t i = 0; i < count; ++i) handles[i] = is_row(handles[i]) ? handles[i] : kEmpty;
  if (access == nullptr) return;
  for (size_t i = 0; i < count; ++i) {
    if (handles[i] != kEmpty) prefetch_row(*access, handles[i]);
  }
}

MONOBEAM_WIDTHS void find_all(const Buckets& index, Span<const uint64_t> keys, const RowAccess* access,
                              uint32_t* handles) {
  const Buckets::View view = index.view();
  pipeline(
      keys.size, MONOBEAM_STEP { choose(view, keys.data + first, count, nullptr, group); },
      MONOBEAM_STEP { look_first(view, keys.data + first, count, group, handles + first); },
      MONOBEAM_STEP { look_second(index, view, keys.data + first, count, access, group, handles + first); });
}

MONOBEAM_WIDTHS void copy_all(const Buckets& index, Span<const uint64_t> keys, const RowAccess access,
                              uint32_t* handles, float* out) {
  const Buckets::View view = index.view();
  const size_t dim = access.bytes / sizeof(float);
  pipeline(
      keys.size, MONOBEAM_STEP { choose(view, keys.data + first, count, nullptr, group); },
      MONOBEAM_STEP { look_first(view, keys.data + first, count, group, handles + first); },
      MONOBEAM_STEP { look_second(index, view, keys.data + first, count, &access, group, handles + first); },
      MONOBEAM_STEP {
        for (size_t i = first; i < first + count; ++i) copy_or_zeros(access, handles[i], out + i * dim);
      });
}

MONOBEAM_INLINE void stamp_first(Buckets& index, const Buckets::View& view, const uint64_t* keys, size_t count,
                                 uint32_t now, const RowAccess& access, Group& group, uint32_t* handles) {
  size_t rest = 0;
  for (size_t i = 0; i < count; ++i) {
    const uint32_t field = view.buckets[group.first[i]].stamp(keys[i], now);
    const void* bucket = &view.buckets[group.second[i]];
    const void* row = access.rows + (is_row(field) ? field : 0) * access.stride;
    __builtin_prefetch(is_row(field) ? row : bucket);
    if (is_row(field)) index.mark(group.first[i]);
    handles[i] = field;
    group.left[rest] = static_cast<uint32_t>(i);
    rest += !is_row(field);
  }
  group.rest = rest;
}

// Returns how many are unknown.
MONOBEAM_INLINE size_t stamp_second(Buckets& index, const Buckets::View& view, const uint64_t* keys, uint32_t now,
                                    const RowAccess& access, const Group& group, uint32_t base, uint32_t* handles,
                                    uint32_t* unknown) {
  size_t missing = 0;
  for (size_t k = 0; k < group.rest; ++k) {
    const uint32_t i = group.left[k];
    const uint32_t field = view.buckets[group.second[i]].stamp(keys[i], now);
    if (is_row(field)) {
      prefetch_row(access, field);
      index.mark(group.second[i]);
    }
    handles[i] = field;
    unknown[missing] = base + i;
    missing += !is_row(field);
  }
  return missing;
}

MONOBEAM_WIDTHS size_t stamp_all(Buckets& index, Span<const uint64_t> keys, uint32_t now, const RowAccess access,
                                 uint32_t* handles, uint64_t* hashes, uint32_t* unknown) {
  const Buckets::View view = index.view();
  size_t missing = 0;
  pipeline(
      keys.size, MONOBEAM_STEP { choose(view, keys.data + first, count, hashes + first, group); },
      MONOBEAM_STEP { stamp_first(index, view, keys.data + first, count, now, access, group, handles + first); },
      MONOBEAM_STEP {
        missing += stamp_second(index, view, keys.data + first, now, access, group, static_cast<uint32_t>(first),
                                handles + first, unknown + missing);
      });
  return missing;
}

MONOBEAM_WIDTHS void gather_all(Span<const uint32_t> handles, const RowAccess& access, float* out) {
  const size_t dim = access.bytes / sizeof(float);
  for (size_t i = 0; i < handles.size; ++i) {
    if (i + kAhead < handles.size && handles[i + kAhead] != kEmpty) prefetch_row(access, handles[i + kAhead]);
    copy_or_zeros(access, handles[i], out + i * dim);
  }
}

}  // namespace

void find_rows(const Buckets& index, Span<const uint64_t> keys, const RowAccess* access, uint32_t* handles) {
  find_all(index, keys, access, handles);
}

void copy_rows(const Buckets& index, Span<const uint64_t> keys, const RowAccess& access, uint32_t* handles,
               float* out) {
  copy_all(index, keys, access, handles, out);
}

size_t stamp_rows(Buckets& index, Span<const uint64_t> keys, uint32_t now, const RowAccess& access, uint32_t* handles,
                  uint64_t* hashes, uint32_t* unknown) {
  return stamp_all(index, keys, now, access, handles, hashes, unknown);
}

void gather_rows(Span<const uint32_t> handles, const RowAccess& access, float* out) {
  gather_all(handles, access, out);
}

}  // namespace monobeam
