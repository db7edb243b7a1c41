"""A thread that takes a step again and again and outlives its failures."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

_LOGGER = logging.getLogger(__name__)
WARN_EVERY_S = 60.0


class Periodic:
    """Calls ``step`` every ``period_s`` seconds, at once again while it returns True (there is more to do).

    A step that raises is logged (once a minute while it lasts), counted in ``failures`` (in a row) and tried again
    after a pause that doubles up to ``max_pause_s``.
    """

    def __init__(
        self,
        name: str,
        step: Callable[[], bool],
        period_s: float,
        max_pause_s: float = 2.0,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._step = step
        self._period_s = period_s
        self._max_pause_s = max_pause_s
        self._clock_s = clock_s
        self._warned_s = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.failures = 0
        self.error: Exception | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """Let the step that is under way end, and wait for the thread."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def _run(self) -> None:
        pause = 0.0
        while not self._stopping.wait(pause):
            pause = self._once()

    def _once(self) -> float:
        """One step; the seconds until the next."""
        try:
            more = self._step()
        except Exception as error:  # the thread must outlive whatever a store, a log or a record does
            self.failures += 1
            self.error = error
            self._warn(error)
            return min(self._max_pause_s, self._period_s * 2.0 ** min(self.failures, 16))
        if self.failures:
            _LOGGER.warning("%s works again after %d failures", self._name, self.failures)
        self.failures, self.error = 0, None
        return 0.0 if more else self._period_s

    def _warn(self, error: Exception) -> None:
        now_s = self._clock_s()
        if self.failures == 1 or now_s - self._warned_s >= WARN_EVERY_S:
            self._warned_s = now_s
            times = f", {self.failures} times in a row" if self.failures > 1 else ""
            _LOGGER.warning("%s failed%s, will try again: %s: %s", self._name, times, type(error).__name__, error)
