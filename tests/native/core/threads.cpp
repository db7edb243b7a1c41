#include "threads.h"

#include <atomic>
#include <thread>

#include "expect.h"
#include "table.h"

namespace monobeam {
namespace {

constexpr size_t kWidth = 64;

void beside(RowFormat format, const std::string& folder) {
  Table table({kWidth, "sgd", {}, 7, 0, 1 << 20, format});
  table.set_policy(0, {2, 1, 3});
  std::vector<uint64_t> lasting(500);
  for (size_t i = 0; i < lasting.size(); ++i) lasting[i] = uint64_t{1} << 48 | i;
  std::vector<uint32_t> handles(lasting.size());
  table.find_or_insert(span(lasting), 0, handles.data());

  std::atomic<bool> done{false};
  // All numbers of a row are always equal: gradients are, and so are the draws that round them, in steps of the format.
  const auto whole = [](const std::vector<float>& rows) {
    for (size_t i = 0; i < rows.size(); ++i) EXPECT(rows[i] == rows[i / kWidth * kWidth]);
  };
  const auto read = [&] {
    const std::vector<int64_t> offsets = {0, 0, 1, 3, 20, 100, 230, 500};
    std::vector<float> rows(lasting.size() * kWidth), sums((offsets.size() - 1) * kWidth);
    std::vector<uint32_t> found(lasting.size());
    std::unique_ptr<bool[]> known(new bool[lasting.size()]);
    while (!done) {
      table.find(span(lasting), found.data());
      EXPECT(found == handles);
      table.gather(span(handles), rows.data());
      whole(rows);
      table.lookup(span(lasting), rows.data(), known.get());
      whole(rows);
      table.lookup_pooled(span(lasting), span(offsets), sums.data());
      whole(sums);
      table.gather_pooled(span(handles), span(offsets), sums.data());
      whole(sums);
      EXPECT(table.size() >= lasting.size());
      EXPECT(table.memory_bytes() >= lasting.size() * kWidth * 2);
      EXPECT(table.stats().buckets >= lasting.size() / kSlots);
      EXPECT(table.update_count_sum() % lasting.size() == 0);  // a batch is one slice
    }
  };
  const auto snapshot = [&] {
    std::vector<uint8_t> rows(lasting.size() * table.row_bytes());
    while (!done) {
      table.check();
      EXPECT(table.keys().size() >= lasting.size());
      EXPECT(table.touched().size() <= lasting.size());
      for (const uint64_t key : table.expired()) EXPECT(slot_of(key) == 0);
      table.export_rows(span(lasting), rows.data());
    }
  };
  const auto save = [&] {
    const std::string path = folder + "/beside";
    while (!done) {
      table.save(path);
      const std::unique_ptr<Table> loaded = Table::load(path);  // which checks it
      EXPECT(loaded->size() >= lasting.size());
    }
  };
  std::thread threads[] = {std::thread(read), std::thread(read), std::thread(snapshot), std::thread(save)};
  const std::vector<float> gradients(lasting.size() * kWidth, 0.5f), values(600 * kWidth, 1.0f);
  for (uint32_t now = 1; now < 60; ++now) {
    std::vector<uint64_t> passing(600);
    for (size_t i = 0; i < passing.size(); ++i) passing[i] = now * 200 + i;
    std::vector<uint32_t> unused(passing.size());
    table.find_or_insert(span(passing), now, unused.data());
    table.apply_pooled(span(handles), {nullptr, 0}, gradients.data(), 1);
    table.expire(now, 1000);
    table.expire_keys({passing.data() + 60, 200}, now + 2);
    table.import_values({passing.data(), 100}, values.data());
    table.erase({passing.data() + 50, 10});
    table.set_policy(2, {now, 0.5, 1});
    if (now % 3 == 0) table.clear_touched();
  }
  done = true;
  for (std::thread& thread : threads) thread.join();
  table.check();
}

void in_one_room() {
  const auto room = std::make_shared<Room>(uint64_t{6} << 20);
  const auto fill = [&](RowFormat format) {
    const std::vector<float> values(100 * kWidth, 1.0f);
    for (int generation = 0; generation < 3; ++generation) {
      Table table({kWidth, "sgd", {}, 7, 0, 1 << 20, format, 0, room});
      std::vector<uint64_t> keys(100);
      for (uint64_t n = 0; n < 3000; ++n) {
        for (size_t i = 0; i < keys.size(); ++i) keys[i] = n * keys.size() + i;
        try {
          table.import_values(span(keys), values.data());
        } catch (const TableFull&) {
          break;
        }
        EXPECT(room->used() <= room->limit());
      }
      EXPECT(table.size() < 300000);
      table.check();
    }
  };
  std::thread threads[] = {std::thread(fill, RowFormat::kFp32), std::thread(fill, RowFormat::kInt8)};
  for (std::thread& thread : threads) thread.join();
  EXPECT(room->used() == 0);
}

}  // namespace

void threads_beside_each_other(const std::string& folder) {
  for (const RowFormat format : {RowFormat::kFp32, RowFormat::kBf16}) beside(format, folder);
  in_one_room();
}

}  // namespace monobeam
