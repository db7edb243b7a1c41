"""Days of raw logs in successive bounded runs, each of which takes over from the one before it.

A bounded run keeps all that it has read until its end. A slice reads what is of its own time, and what may not have
been decided in the time before it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from monobeam.logs.log import Log, open_log
from monobeam.logs.seek import end_for_time, probes
from monobeam.models.config import Config
from monobeam.pipelines.join import raw_logs, tail_of
from monobeam.pipelines.marks import Mark
from monobeam.transforms import resources
from monobeam.transforms.read import Partition, first
from monobeam.transforms.spans import Span, whole


@dataclass(frozen=True)
class Slice:
    """A bounded run from ``since_us`` to ``until_us``, event time; None: from the start, to the end.

    ``fresh``: how many of the records in its spans no slice before it has read. ``reached``: where it ends in each
    partition.
    """

    since_us: int | None
    until_us: int | None
    spans: tuple[Span, ...]
    fresh: int
    reached: Mapping[Partition, int]


class Slices:
    """The slices from ``since_us`` to ``until_us``, each from one multiple of ``length_us`` to another.

    Where the logs have nothing a slice is longer; ``length_us`` None: there is one, and it reads whatever there is.
    ``done``: where the slices before these ended. Records of an earlier time that come after it are joined in the slice
    that finds them, and counted as late.
    """

    def __init__(
        self,
        config: Config,
        since_us: int | None,
        until_us: int | None,
        length_us: int | None,
        done: Mark | None = None,
    ) -> None:
        self._config, self._since_us, self._until_us, self._length_us = config, since_us, until_us, length_us
        spans = whole(raw_logs(config), tail_of(config, since_us))
        self._raw = [_Raw(span.partition, config) for span in spans]
        self._reached = [span.start for span in spans]
        self._goes_on = done is not None
        if done is not None:
            self._since_us = done.until_us
            self._reached = [done.reached.get(span.partition, span.start) for span in spans]
        stops = [span.stop for span in spans]
        if length_us is not None:
            stops = [raw.end(until_us, at) for raw, at in zip(self._raw, self._reached, strict=True)]
        self._stops = [max(bounds) for bounds in zip(self._reached, stops, strict=True)]
        self.records = sum(self._stops) - sum(self._reached)

    def __iter__(self) -> Iterator[Slice]:
        """One after the other, as the logs are then."""
        since_us = self._since_us
        while True:
            until_us = self._next(since_us)
            stops = self._cut(until_us)
            if stops == self._stops:
                until_us = self._until_us
            yield self._slice(since_us, until_us, stops)
            if until_us == self._until_us:
                return
            since_us, self._goes_on = until_us, True

    def _next(self, since_us: int | None) -> int | None:
        """Where the slice from ``since_us`` ends: after the first records that were not read yet."""
        if self._length_us is None:
            return self._until_us
        left = [place for place in zip(self._raw, self._reached, self._stops, strict=True) if place[1] < place[2]]
        times = [time for raw, at, _ in left if (time := raw.time_at(at, since_us)) is not None]
        if not times:
            return self._until_us
        until_us = (min(times) // self._length_us + 1) * self._length_us
        return until_us if self._until_us is None else min(until_us, self._until_us)

    def _cut(self, until_us: int | None) -> list[int]:
        if until_us == self._until_us:
            return self._stops
        places = zip(self._raw, self._reached, self._stops, strict=True)
        return [min(raw.end(until_us, at), stop) for raw, at, stop in places]

    def _slice(self, since_us: int | None, until_us: int | None, stops: Sequence[int]) -> Slice:
        tail = tail_of(self._config, since_us)
        known_from_us = since_us if self._goes_on else None
        spans, fresh = [], 0
        for index, raw in enumerate(self._raw):
            at, stop = self._reached[index], stops[index]
            start = min(first(raw.log, raw.partition, tail), at)
            spans.append(Span(raw.partition, start, at, again=True))
            spans.append(Span(raw.partition, at, stop, known_from_us=known_from_us))
            fresh += stop - at
            self._reached[index] = stop
            raw.rest()
        reached = {raw.partition: at for raw, at in zip(self._raw, self._reached, strict=True)}
        return Slice(since_us, until_us, tuple(span for span in spans if span.start < span.stop), fresh, reached)


class _Raw:
    """A partition of a raw log, as whoever cuts it into slices sees it."""

    def __init__(self, partition: Partition, config: Config) -> None:
        self.partition = partition
        self._disorder_us = config.logs.disorder_us

    @cached_property
    def log(self) -> Log:
        """Open until ``rest``: a client of a broker would go on to fetch what nobody reads."""
        return open_log(self.partition.uri)

    def rest(self) -> None:
        """Nothing is asked for a while."""
        self.__dict__.pop("log", None)

    def end(self, until_us: int | None, start: int | None = None) -> int:
        """The offset after the last record of an earlier time; ``start``: where nobody need look before."""
        number = self.partition.number
        if until_us is None:
            return resources.patiently(lambda: self.log.end(number))
        return resources.patiently(lambda: end_for_time(self.log, number, until_us, self._disorder_us, start))

    def time_at(self, offset: int, since_us: int | None) -> int | None:
        """About the time of the records there, not before ``since_us``; None where none from there on has one.

        Not of a single one, which may be wrong: of the next ones the earliest that is not late.
        """
        times = resources.patiently(lambda: next(probes(self.log, self.partition.number, offset), None))
        if times is None:
            return None
        since_us = since_us or 0
        return int(min(times[times >= since_us], default=since_us))
