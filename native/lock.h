// Readers beside one writer, each getting in between the others.
#pragma once

#include <mutex>
#include <shared_mutex>

namespace monobeam {

// Three ways to use a table:
//   read:     shared() around a short section; readers run beside each other.
//   write:    turn() for the whole call, and within it exclusive() around slices of the work. Calls that write follow
//             one another as wholes; readers come in between slices.
//   snapshot: turn() alone. Nothing can change while it is held, and readers go on.
// A plain std::shared_mutex lets a stream of readers starve writers (glibc prefers readers), and a plain std::mutex
// lets whoever gives it back take it again at once. Whoever wants in passes a gate first: one that is past it and waits
// stops all others, so a waiting writer stops new readers, and a waiting reader the writer's next slice. Who comes
// first at a gate is up to the system: nobody waits for ever in all likelihood, but there is no strict order.
class TableLock {
 public:
  std::unique_lock<std::mutex> turn() {
    std::lock_guard<std::mutex> pass(turn_gate_);
    return std::unique_lock<std::mutex>(writers_);
  }

  std::shared_lock<std::shared_mutex> shared() {
    std::lock_guard<std::mutex> pass(gate_);
    return std::shared_lock<std::shared_mutex>(body_);
  }

  std::unique_lock<std::shared_mutex> exclusive() {
    std::lock_guard<std::mutex> pass(gate_);
    return std::unique_lock<std::shared_mutex>(body_);
  }

 private:
  std::mutex turn_gate_;
  std::mutex writers_;
  std::mutex gate_;
  std::shared_mutex body_;
};

}  // namespace monobeam
