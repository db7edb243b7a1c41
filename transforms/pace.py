"""How far one firing of a timer moves event time."""

from __future__ import annotations

MAX_STEP_US = 1_000_000
BACKLOG = 3
FORGET = 100


class Pace:
    """A step of event time: one tick while the job keeps up, more where it is behind.

    A firing costs a bundle, whatever it has to do. Where firings come later than they did at best, a step is as long as
    they are late; where event time runs faster than the clock (old records are read), steps double. What is emitted is
    the same.
    """

    def __init__(self, tick_us: int) -> None:
        self._tick_us = tick_us
        self._step_us = tick_us
        self._last: tuple[int, int] | None = None
        self._best_lag_us = 0

    def fired(self, event_us: int, now_us: int) -> None:
        """A timer fired for ``event_us`` at ``now_us``."""
        lag_us = now_us - event_us
        if self._last is None:
            self._best_lag_us = lag_us
        else:
            moved, took = event_us - self._last[0], max(1, now_us - self._last[1])
            # What was possible once need not be possible for ever.
            self._best_lag_us = min(lag_us, self._best_lag_us + took // FORGET)
            behind_us = lag_us - self._best_lag_us
            step_us = 2 * self._step_us if moved > BACKLOG * took else behind_us
            self._step_us = min(max(step_us, self._tick_us), max(MAX_STEP_US, self._tick_us))
        self._last = event_us, now_us

    def next(self, due_us: int) -> int:
        """When the next timer fires, given that something is due at ``due_us``."""
        if self._last is None:
            return due_us
        return max(due_us, self._last[0] + self._step_us)
