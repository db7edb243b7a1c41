"""How far one firing of a timer moves event time."""

from __future__ import annotations

FIRST_LIMIT_US, LAST_LIMIT_US = 1_000_000, 60_000_000
LONG_US = 250_000
GAIN = 1.5
TRY_EVERY = 16
FORGET = 100


class Pace:
    """A step of event time: one tick while the job keeps up, more where it is behind.

    A firing costs a bundle, whatever it has to do, and a runner may let one through for each time that its sources say
    how far they are. Where firings come later than they did at best, a step is as long as they are late. Where event
    time gains on the clock (old records are read), steps double: up to a second, and on as long as what is done in one
    takes less than LONG_US, but never beyond the clock, where they would be waited for. One in TRY_EVERY is of two
    ticks, to see whether time can gain. What is emitted is the same.
    """

    def __init__(self, tick_us: int) -> None:
        self._tick_us = tick_us
        self._step_us = tick_us
        self._least_limit_us = self._limit_us = max(FIRST_LIMIT_US, tick_us)
        self._last: tuple[int, int] | None = None
        self._best_lag_us = 0
        self._fired = 0

    def fired(self, event_us: int, now_us: int, took_us: int = 0) -> None:
        """A timer fired for ``event_us`` at ``now_us``; what there was to do took so long."""
        lag_us = now_us - event_us
        if self._last is None:
            self._best_lag_us = lag_us
        else:
            moved, since = event_us - self._last[0], max(1, now_us - self._last[1])
            # What was possible once need not be possible for ever.
            self._best_lag_us = min(lag_us, self._best_lag_us + since // FORGET)
            behind_us = lag_us - self._best_lag_us
            wanted_us = min(2 * self._step_us, lag_us) if moved > GAIN * since else behind_us
            self._limit(wanted_us, took_us)
            self._fired += 1
            least_us = self._tick_us * (2 if self._fired % TRY_EVERY == 0 else 1)
            self._step_us = min(max(wanted_us, least_us), self._limit_us)
        self._last = event_us, now_us

    def _limit(self, wanted_us: int, took_us: int) -> None:
        if took_us > LONG_US:
            self._limit_us = max(self._limit_us // 2, self._least_limit_us)
        elif wanted_us > self._limit_us:
            self._limit_us = min(2 * self._limit_us, max(LAST_LIMIT_US, self._tick_us))

    def next(self, due_us: int) -> int:
        """When the next timer fires, given that something is due at ``due_us``."""
        if self._last is None:
            return due_us
        return max(due_us, self._last[0] + self._step_us)
