"""How far event time has come in a partition: a bound on the records that are still to come."""

from __future__ import annotations

BEGINNING = 0


class Watermark:
    """The latest time seen less the bound on disorder; never goes back. For a reader that alternates reads and ``at``.

    disorder_us: a record is appended at most so long after its time. idle_after_us: a partition in which reads have
    found nothing for so long does not hold the others back: the watermark then follows the clock at this distance.
    start_us: what an earlier watermark of the partition had reached.
    """

    def __init__(self, disorder_us: int, idle_after_us: int, start_us: int = BEGINNING):
        if disorder_us < 0 or idle_after_us < 0:
            raise ValueError(f"disorder {disorder_us} us, idle after {idle_after_us} us: must not be negative")
        self._disorder_us = disorder_us
        self._idle_after_us = idle_after_us
        self._reached_us = start_us
        self._idle_since_us: int | None = None
        self._asked_us = 0

    def observe(self, max_time_us: int, now_us: int) -> None:
        """Records were read at ``now_us``, the latest of them of time ``max_time_us``.

        A time after ``now_us`` counts as now: one clock that is ahead must not make everybody else late.
        """
        self._advance(min(max_time_us, now_us) - self._disorder_us)
        self._idle_since_us = None

    def at(self, now_us: int) -> int:
        """The watermark in microseconds: all later records are of this time or after it. Ask after each read.

        Time that passes is no sign of idleness, as the reader may have been held up itself; a read without records is.
        What such a read did not find was appended after the question before it, so the watermark may go up to there.
        """
        if self._idle_since_us is None:
            self._idle_since_us = now_us
        elif now_us - self._idle_since_us >= self._idle_after_us:
            self._advance(min(now_us - self._idle_after_us, self._asked_us) - self._disorder_us)
        self._asked_us = now_us
        return self._reached_us

    def _advance(self, time_us: int) -> None:
        self._reached_us = max(self._reached_us, time_us)
