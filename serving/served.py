"""The served log: what was shown, as impressions for the join. This is where the loop closes."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from monobeam.logs.log import Appender, Log
from monobeam.serving.columns import FeatureTypes
from monobeam.serving.periodic import Periodic

_LOGGER = logging.getLogger(__name__)
FLUSH_EVERY_S = 0.05
MAX_PENDING = 100_000
Record = dict[str, Any]

# Besides impression_id and time; a feature of the same name takes its place.
SERVED_FIELDS: Mapping[str, str] = {
    "request_id": "string",
    "model": "string",
    "model_version": "string",
    "position": "int",
    "score": "double",
    "propensity": "double",
}
_AVRO: Mapping[pa.DataType, Any] = {
    pa.bool_(): "boolean",
    pa.int64(): "long",
    pa.float64(): "double",
    pa.string(): "string",
    pa.list_(pa.int64()): {"type": "array", "items": "long"},
    pa.list_(pa.float64()): {"type": "array", "items": "double"},
    pa.list_(pa.string()): {"type": "array", "items": "string"},
}


@dataclass(frozen=True)
class Shown:
    """One answered request: what was shown, best first, each candidate with its impression id and its score.

    ``propensity`` is the probability with which the policy shows this item at this position: 1 for a plain ranking.
    """

    time_us: int
    request_id: str
    model: str
    model_version: str
    user: Mapping[str, Any]
    candidates: tuple[Mapping[str, Any], ...]
    impression_ids: tuple[str, ...]
    scores: tuple[float, ...]
    propensity: float = 1.0

    def records(self) -> list[Record]:
        """One impression per candidate."""
        shared = {
            "time": self.time_us,
            "request_id": self.request_id,
            "model": self.model,
            "model_version": self.model_version,
            "propensity": self.propensity,
        }
        shown = zip(self.candidates, self.impression_ids, self.scores, strict=True)
        return [
            {"impression_id": name, **shared, "position": position, "score": score, **self.user, **features}
            for position, (features, name, score) in enumerate(shown)
        ]


class ServedLog:
    """Appends what was shown from a thread of its own; ``offer`` never waits.

    At most ``max_pending`` impressions wait; beyond that, and while the log cannot be written, they are dropped and
    counted. ``stop`` writes what waits.
    """

    def __init__(self, log: Log, partition: int, types: FeatureTypes, max_pending: int = MAX_PENDING) -> None:
        self._log = log
        self._partition = partition
        self._types = types
        self._max_pending = max_pending
        self._queue: deque[Shown] = deque()
        self._lock = threading.Lock()
        self._appender: Appender | None = None
        self._schema: Record = {}
        self._thread = Periodic("served log", self._flush, FLUSH_EVERY_S)
        self.pending = 0
        self.logged = 0
        self.dropped = 0

    @property
    def error(self) -> str | None:
        """Why the log cannot be written at the moment."""
        error = self._thread.error
        return None if error is None else f"{type(error).__name__}: {error}"

    def open(self) -> None:
        """Become the partition's one writer; OSError or LogError where that cannot be."""
        self._open()

    def start(self) -> None:
        """Start the thread that writes."""
        self._thread.start()

    def offer(self, shown: Shown) -> bool:
        """Queue what was shown; False (and counted) when the queue is full or the log cannot be written."""
        count = len(shown.impression_ids)
        with self._lock:
            if self._thread.failures or self.pending + count > self._max_pending:
                self.dropped += count
                return False
            self.pending += count
            self._queue.append(shown)
        return True

    def stop(self) -> None:
        """Write everything that waits and close the log; what cannot be written is counted and reported."""
        self._thread.stop()
        try:
            self._flush()
        except Exception as error:  # shutting down: all there is left to do is to say so
            self.dropped += self.pending
            _LOGGER.error("served log: %d impressions could not be written: %s", self.pending, error)
        finally:
            if self._appender is not None:
                self._appender.close()

    def _flush(self) -> bool:
        batch = list(self._queue)  # only this thread takes away; what comes meanwhile stays for the next flush
        if not batch:
            return False
        records = [record for shown in batch for record in shown.records()]
        self._open().append(records)
        with self._lock:
            for _ in batch:
                self._queue.popleft()
            self.pending -= len(records)
        self.logged += len(records)
        return False

    def _open(self) -> Appender:
        """The appender of the schema of now: a feature whose type has become known since takes a new one."""
        schema = avro_schema(self._types)
        if self._appender is None or schema != self._schema:
            if self._appender is not None:
                self._appender.close()
                self._appender = None
            self._appender = self._log.appender(self._partition, schema)
            self._schema = schema
        return self._appender


def avro_schema(types: FeatureTypes) -> Record:
    """The Avro schema of served impressions: features whose type is known, each of which may be null."""
    features = [
        {"name": name, "type": ["null", _AVRO[types.pinned[name]]], "default": None} for name in sorted(types.pinned)
    ]
    named = {feature["name"] for feature in features}
    served = [{"name": name, "type": avro} for name, avro in SERVED_FIELDS.items() if name not in named]
    first = [
        {"name": "impression_id", "type": "string"},
        {"name": "time", "type": {"type": "long", "logicalType": "timestamp-micros"}},
    ]
    return {"type": "record", "name": "Served", "namespace": "monobeam", "fields": first + served + features}
