"""What becomes of calls to Bigtable: passed on, failed, delayed, half applied, applied unanswered, applied late."""

from __future__ import annotations

import random
import threading
from collections import Counter

WRITES = ("MutateRows", "CheckAndMutateRow", "MutateRow")
SUFFER = {
    "fail": ("ReadRows", *WRITES),
    "delay": ("ReadRows", *WRITES),
    "half": ("MutateRows",),
    "lose_answer": WRITES,
    "apply_late": WRITES,
    "cut_read": ("ReadRows",),
}
"""The methods that a kind of disturbance can happen to."""


class Schedule:
    """Gives each call its fate, from a seed; for several threads at once. ``done`` counts what was disturbed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kind, self._left = "", 0
        self._random = random.Random(0)
        self.done: Counter[str] = Counter()

    def disturb(self, kind: str, calls: int, seed: int) -> None:
        """Disturb so many of the next calls that it can happen to; 0 ends it."""
        if calls and kind not in SUFFER:
            raise ValueError(f"kind {kind!r}: must be one of {', '.join(SUFFER)}")
        with self._lock:
            self._kind, self._left, self._random = kind, calls, random.Random(seed)

    def fate(self, method: str) -> tuple[str, random.Random]:
        """The kind of disturbance of this call ('' for none), and what to draw its details from."""
        with self._lock:
            # Some calls come through in between: what was half done must be met by what is done after it.
            if self._left <= 0 or method not in SUFFER[self._kind] or self._random.random() < 0.3:
                return "", self._random
            self._left -= 1
            self.done[self._kind] += 1
            return self._kind, random.Random(self._random.getrandbits(32))
