"""Where times lie in a log."""

from __future__ import annotations

from monobeam.logs.columns import earliest_time
from monobeam.logs.log import Log

PROBE = 100
"""How many records must be too late to be believed, as a single one may have a wrong time."""


def end_for_time(log: Log, partition: int, time_us: int, disorder_us: int, start: int | None = None) -> int:
    """An offset such that every record whose ``time`` is before ``time_us`` lies before it.

    The counterpart of ``Log.offset_for_time``: what lies after a record was appended after it, so not before its time,
    and is of a time at most ``disorder_us`` before that. Near, not exact: may be any later. ``start``: where nobody
    need look before.
    """
    low, high = log.start(partition) if start is None else start, log.end(partition)
    while low < high:
        middle = (low + high) // 2
        chunks = [chunk for chunk in log.read(partition, middle, PROBE) if chunk.count]
        times = [earliest_time(chunk) for chunk in chunks]
        if chunks and all(time is not None and time >= time_us + disorder_us for time in times):
            high = middle
        else:
            low = middle + 1
    return low
