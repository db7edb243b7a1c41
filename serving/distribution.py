"""Distributions of durations in bounded memory: in logarithmic bins a percentile is right to within 1 %."""

from __future__ import annotations

import math
import threading
from collections import deque

import numpy as np
import numpy.typing as npt

GROWTH = 1.01
_PER_LOG = 1.0 / math.log(GROWTH)
BINS = math.ceil(math.log(3.6e9) * _PER_LOG) + 1  # bin 0: up to 1 us; the last: an hour and longer


class Distribution:
    """Counts of durations (microseconds) by logarithmic bin; mergeable. Not thread-safe."""

    __slots__ = ("count", "counts", "total_us")

    def __init__(self) -> None:
        self.counts: npt.NDArray[np.int64] = np.zeros(BINS, np.int64)
        self.count = 0
        self.total_us = 0.0

    def add(self, duration_us: float) -> None:
        """Count one duration; below 1 us counts as 1 us."""
        self.counts[min(int(math.log(duration_us) * _PER_LOG), BINS - 1) if duration_us > 1 else 0] += 1
        self.count += 1
        self.total_us += duration_us

    def add_many(self, durations_us: npt.NDArray[np.int64]) -> None:
        """Count many durations."""
        bins = (np.log(np.maximum(durations_us, 1)) * _PER_LOG).astype(np.int64)
        np.add.at(self.counts, np.minimum(bins, BINS - 1), 1)
        self.count += len(durations_us)
        self.total_us += float(durations_us.sum())

    def merge(self, other: Distribution) -> None:
        """Add the counts of another distribution."""
        self.counts += other.counts
        self.count += other.count
        self.total_us += other.total_us

    def quantile_us(self, q: float) -> float | None:
        """The q-quantile (nearest rank) in microseconds, to within 1 %; None when nothing was counted."""
        if self.count == 0:
            return None
        rank = max(1, math.ceil(q * self.count))
        index = int(np.searchsorted(np.cumsum(self.counts), rank))
        return float(GROWTH ** (index + 0.5)) if index else 1.0

    def count_up_to(self, duration_us: float) -> int:
        """How many durations were at most this long, to within 1 % of the duration."""
        return int(self.counts[: int(math.log(duration_us) * _PER_LOG) + 1].sum())


class WindowedDistribution:
    """A distribution over everything, and one for each of the last ``window_s`` seconds. Thread-safe."""

    def __init__(self, window_s: int = 60) -> None:
        self.overall = Distribution()
        self._seconds: deque[tuple[int, Distribution]] = deque(maxlen=window_s + 1)
        self._window_s = window_s
        self._lock = threading.Lock()

    def add(self, duration_us: float, now_us: int) -> None:
        """Count one duration that ended now."""
        with self._lock:
            self.overall.add(duration_us)
            self._second(now_us).add(duration_us)

    def add_many(self, durations_us: npt.NDArray[np.int64], now_us: int) -> None:
        """Count many durations that ended now."""
        with self._lock:
            self.overall.add_many(durations_us)
            self._second(now_us).add_many(durations_us)

    def over(self, seconds: int, now_us: int) -> Distribution:
        """The distribution of the last ``seconds`` complete seconds and the one that is under way."""
        first = now_us // 1_000_000 - seconds
        merged = Distribution()
        with self._lock:
            for second, distribution in self._seconds:
                if second >= first:
                    merged.merge(distribution)
        return merged

    def window(self, now_us: int) -> Distribution:
        """The distribution of the whole window."""
        return self.over(self._window_s, now_us)

    def _second(self, now_us: int) -> Distribution:
        second = now_us // 1_000_000
        if not self._seconds or self._seconds[-1][0] < second:
            self._seconds.append((second, Distribution()))
        return self._seconds[-1][1]
