"""Where times lie in a log."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from monobeam.logs.columns import usable_times
from monobeam.logs.log import Log

PROBE = 100
"""How many records must be too late to be believed, as a single one may have a wrong time."""

_MOST = 1 << 14


def end_for_time(log: Log, partition: int, time_us: int, disorder_us: int, start: int | None = None) -> int:
    """An offset such that every record whose ``time`` is before ``time_us`` lies before it.

    The counterpart of ``Log.offset_for_time``: what lies after a record was appended after it, so not before its time,
    and is of a time at most ``disorder_us`` before that. Near, not exact: may be any later. ``start``: where nobody
    need look before. Records without a usable time are where their neighbours are.
    """
    low, high = log.start(partition) if start is None else start, log.end(partition)
    while low < high:
        middle = (low + high) // 2
        times = next(probes(log, partition, middle), None)
        if times is not None and times.min() >= time_us + disorder_us:
            high = middle
        else:
            low = middle + 1
    return low


def probes(log: Log, partition: int, offset: int) -> Iterator[npt.NDArray[np.int64]]:
    """Usable times from ``offset`` on, in microseconds: of about ``PROBE`` records, then of more; none is empty."""
    now_us, wanted = time.time_ns() // 1000, PROBE
    while chunks := log.read(partition, offset, wanted):
        times = np.concatenate([usable_times(chunk, now_us) for chunk in chunks])
        if len(times):
            yield times
        offset, wanted = chunks[-1].end, min(2 * wanted, _MOST)
