#include "invariants.h"

#include <stdexcept>

#include "arena.h"
#include "expect.h"

namespace monobeam {

void broken_invariants_are_noticed() {
  Budget budget(0, nullptr);
  Arena arena(24, budget);
  const uint32_t kept = arena.allocate(), released = arena.allocate();
  arena.row(kept)[0] = arena.row(released)[23] = 1;
  arena.release(released);
  EXPECT(arena.row(released)[23] == 0);
  arena.check();
  EXPECT(budget.used() == arena.cost());
  arena.row(released)[23] = 1;
  EXPECT_THROWS(std::runtime_error, arena.check());
  arena.row(released)[23] = 0;
  arena.check();
}

}  // namespace monobeam
