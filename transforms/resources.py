"""Open logs of this worker process, shared by all instances of a DoFn.

Runners create several instances of a DoFn and drop idle ones, while appenders and readers remember how far they have
scanned. So they live here, one per process, and never on ``self``.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from monobeam.logs.log import Appender, AwayError, Chunk, Log, open_log

LOOK_EVERY_S = 10.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
WARN_EVERY_S = 10.0
Given = TypeVar("Given")

_LOGGER = logging.getLogger(__name__)


@dataclass
class _Opened:
    """An appender, once it could be opened, and who may use it."""

    appender: Appender | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


_lock = threading.RLock()
_logs: dict[tuple[str, int, int], Log] = {}  # by address, partition and thread; 0 for the one reader
_appenders: dict[tuple[str, int], _Opened] = {}
_looked: dict[str, tuple[float, set[int]]] = {}


def reader(uri: str, partition: int) -> Log:
    """The log at ``uri``, as read by the one reader of ``partition`` in this process."""
    return _opened(uri, partition, 0)


def _opened(uri: str, partition: int, thread: int) -> Log:
    with _lock:
        log = _logs.get((uri, partition, thread))
        if log is None:
            log = _logs[uri, partition, thread] = open_log(uri)
        return log


def read(uri: str, partition: int, offset: int, max_records: int, *, alone: bool = True) -> list[Chunk]:
    """As ``Log.read`` of ``reader``; while the log is away it is waited for.

    Not ``alone``: other threads read the partition at other places, and each has the log for itself.
    """
    thread = 0 if alone else threading.get_ident()
    return patiently(lambda: _opened(uri, partition, thread).read(partition, offset, max_records))


def append(uri: str, schema: str, partition: int, count: int, payload: bytes) -> int:
    """Append ``count`` encoded datums; returns the offset of the first once they are durable.

    While the log is away it is waited for; then they may be there twice. Other workers may append to the same
    partition: where a step runs is for the runner to say.
    """
    with _lock:
        opened = _appenders.setdefault((uri, partition), _Opened())

    def appended() -> int:
        if opened.appender is None:
            parsed: Mapping[str, Any] = json.loads(schema)
            opened.appender = open_log(uri).appender(partition, dict(parsed), shared=True)
        return opened.appender.append_payload(count, payload)

    with opened.lock:  # of this appender alone: others need not wait for its log
        return patiently(appended)


def patiently(question: Callable[[], Given]) -> Given:
    """The answer of a log that may be away for a while."""
    began, warned, pause_s = time.monotonic(), 0.0, FIRST_PAUSE_S
    while True:
        try:
            return question()
        except AwayError as error:
            now = time.monotonic()
            if now - warned >= WARN_EVERY_S:
                warned = now
                _LOGGER.warning("waiting for %d s: %s", now - began, error)
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def warn_of_unread(uri: str, count: int) -> None:
    """Log, once each, the partitions of a log from number ``count`` on: a job reads those that it was built for."""
    with _lock:
        looked, known = _looked.get(uri, (-LOOK_EVERY_S, set()))
        if time.monotonic() - looked < LOOK_EVERY_S:
            return
        _looked[uri] = time.monotonic(), known
    try:  # while others go on: a log that is away takes its time to say so
        unread = {number for number in reader(uri, 0).partitions() if number >= count}
    except AwayError:  # whoever reads it says so
        return
    for number in sorted(unread - known):
        _LOGGER.warning("%s: partition %d is not read: this job was built for %d; start it again", uri, number, count)
    with _lock:
        _looked[uri] = time.monotonic(), unread


def close_all() -> None:
    """Close every appender of this process (the end of a pipeline, or of a test)."""
    with _lock:
        for opened in _appenders.values():
            if opened.appender is not None:
                opened.appender.close()
        _appenders.clear()
        _logs.clear()
        _looked.clear()
