"""Open logs of this worker process, shared by all instances of a DoFn.

Runners create several instances of a DoFn and drop idle ones, while appenders and readers remember how far they have
scanned. So they live here, one per process, and never on ``self``.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from monobeam.logs.log import Appender, Log, open_log

LOOK_EVERY_S = 10.0

_LOGGER = logging.getLogger(__name__)
_lock = threading.RLock()
_logs: dict[tuple[str, int], Log] = {}
_appenders: dict[tuple[str, int], Appender] = {}
_looked: dict[str, tuple[float, set[int]]] = {}


def reader(uri: str, partition: int) -> Log:
    """The log at ``uri``, as read by the one reader of ``partition`` in this process."""
    with _lock:
        log = _logs.get((uri, partition))
        if log is None:
            log = _logs[uri, partition] = open_log(uri)
        return log


def append(uri: str, schema: str, partition: int, count: int, payload: bytes) -> int:
    """Append ``count`` encoded datums; returns the offset of the first once they are durable.

    Other workers may append to the same partition: where a step runs is for the runner to say.
    """
    with _lock:
        appender = _appenders.get((uri, partition))
        if appender is None:
            parsed: Mapping[str, Any] = json.loads(schema)
            appender = _appenders[uri, partition] = open_log(uri).appender(partition, dict(parsed), shared=True)
        return appender.append_payload(count, payload)


def warn_of_unread(uri: str, count: int) -> None:
    """Log, once each, the partitions of a log from number ``count`` on: a job reads those that it was built for."""
    with _lock:
        looked, known = _looked.get(uri, (-LOOK_EVERY_S, set()))
        if time.monotonic() - looked < LOOK_EVERY_S:
            return
        unread = {number for number in open_log(uri).partitions() if number >= count}
        for number in sorted(unread - known):
            _LOGGER.warning(
                "%s: partition %d is not read: this job was built for %d; start it again", uri, number, count
            )
        _looked[uri] = time.monotonic(), unread


def close_all() -> None:
    """Close every appender of this process (the end of a pipeline, or of a test)."""
    with _lock:
        for appender in _appenders.values():
            appender.close()
        _appenders.clear()
        _logs.clear()
        _looked.clear()
