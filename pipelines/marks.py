"""How far a backfill has come, in the log of metrics: the same command goes on from there."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from monobeam.logs import schemas
from monobeam.logs.log import Log, clip, open_log, records
from monobeam.models.config import Config
from monobeam.transforms import resources
from monobeam.transforms.read import Partition

COMPONENT = "backfill"
_LOOK_BACK = 10_000


@dataclass(frozen=True)
class Mark:
    """All slices up to ``until_us``, event time in microseconds, are done.

    ``reached``: the offset that each partition of the raw logs was read up to. Times do not tell it: logs grow, and are
    not quite in order.
    """

    until_us: int
    reached: Mapping[Partition, int]


class Marks:
    """Of one backfill, known by what it reads, where to, and how it joins. ``since_us``: where its first slice begins.

    A mark counts only while the log of examples has all that it had then.
    """

    def __init__(self, config: Config, since_us: int | None, length_us: int) -> None:
        logs = config.logs
        self._raw = [("impressions", uri) for uri in logs.impressions] + [("actions", uri) for uri in logs.actions]
        self._metrics, self._examples, self._shards = logs.metrics, logs.examples, range(config.join.shards)
        what = (logs.impressions, logs.actions, logs.examples, config.join, config.labels, since_us, length_us)
        self._name = hashlib.blake2b(repr(what).encode(), digest_size=8).hexdigest()

    def last(self) -> Mark | None:
        """How far it had come; None for no slice that is done."""
        for record in _backwards(open_log(self._metrics)):
            if (record["component"], record["key"]) == (COMPONENT, self._name):
                were = record["arrays"]["ends"]
                is_there = all(end >= was for end, was in zip(self._ends(), were, strict=True))
                return Mark(record["position"], self._reached(record["arrays"])) if is_there else None
        return None

    def set(self, mark: Mark) -> None:
        """Note that all slices up to there are done."""
        arrays = {f"{kind} {uri}": offsets for (kind, uri), offsets in self._by_log(mark.reached).items()}
        record = {
            "component": COMPONENT,
            "key": self._name,
            "position": mark.until_us,
            "time": time.time_ns() // 1000,
            "values": {},
            "arrays": {"ends": self._ends(), **arrays},
        }
        with open_log(self._metrics).appender(0, schemas.METRICS, shared=True) as appender:
            resources.patiently(lambda: appender.append([record]))

    def _by_log(self, reached: Mapping[Partition, int]) -> dict[tuple[str, str], list[float]]:
        found: dict[tuple[str, str], list[float]] = {log: [] for log in self._raw}
        for partition in sorted(reached):
            found[partition.kind, partition.uri].append(float(reached[partition]))
        return found

    def _reached(self, arrays: Mapping[str, list[float]]) -> dict[Partition, int]:
        return {
            Partition(kind, uri, number): int(offset)
            for kind, uri in self._raw
            for number, offset in enumerate(arrays[f"{kind} {uri}"])
        }

    def _ends(self) -> list[float]:
        log = open_log(self._examples)
        return resources.patiently(lambda: [float(log.end(shard)) for shard in self._shards])


def _backwards(log: Log) -> Iterator[dict[str, Any]]:
    """Records of the log of metrics, the last one first."""
    start, stop = resources.patiently(lambda: (log.start(0), log.end(0)))
    while start < stop:
        first = max(start, stop - _LOOK_BACK)
        yield from reversed(list(_between(log, first, stop)))
        stop = first


def _between(log: Log, offset: int, stop: int) -> Iterator[dict[str, Any]]:
    while offset < stop and (chunks := resources.patiently(lambda: log.read(0, offset, stop - offset))):  # noqa: B023
        for chunk in chunks:
            yield from records([clip(chunk, offset, stop)])
        offset = chunks[-1].end
