"""Freshness: from an action's arrival to the first answer that could use it.

Sync events carry the arrivals of the actions that were trained into them. An answer could use an event when its
lookups began after the event was applied; the first such answer ends the wait of all arrivals that the event brought.
"""

from __future__ import annotations

import threading

import numpy as np
import numpy.typing as npt

from monobeam.serving.distribution import WindowedDistribution

Arrivals = npt.NDArray[np.int64]
MAX_WAITING = 1_000_000


class Freshness:
    """Arrivals that wait for an answer, and how long the others waited. Thread-safe; microseconds."""

    def __init__(self, window_s: int = 60, max_waiting: int = MAX_WAITING) -> None:
        self.distribution = WindowedDistribution(window_s)
        self.overflowed = 0  # arrivals that no answer came for while more than max_waiting waited
        self._max_waiting = max_waiting
        self._waiting: list[Arrivals] = []
        self._count = 0
        self._lock = threading.Lock()

    def applied(self, arrivals: Arrivals) -> None:
        """An event with these arrivals (int64[n], microseconds; 0 = none) has been applied."""
        arrivals = arrivals[arrivals > 0]
        if len(arrivals) == 0:
            return
        with self._lock:
            self._waiting.append(arrivals)
            self._count += len(arrivals)
            while self._count > self._max_waiting:
                oldest = self._waiting.pop(0)
                self._count -= len(oldest)
                self.overflowed += len(oldest)

    def take(self) -> list[Arrivals]:
        """Before the lookups of an answer: the arrivals that this answer is the first to be able to use."""
        if not self._waiting:
            return []
        with self._lock:
            taken, self._waiting, self._count = self._waiting, [], 0
        return taken

    def give_back(self, taken: list[Arrivals]) -> None:
        """The answer failed: the arrivals wait for the next one."""
        for arrivals in taken:
            self.applied(arrivals)

    def answered(self, taken: list[Arrivals], now_us: int) -> None:
        """The answer is there: its arrivals have waited until now."""
        if taken:
            self.distribution.add_many(now_us - np.concatenate(taken), now_us)
