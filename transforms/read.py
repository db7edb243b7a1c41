"""Follow raw logs as keyed Arrow blocks (a splittable DoFn over the log interface)."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import apache_beam as beam
import pyarrow.compute as pc
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import Duration, Timestamp

from monobeam.join.shards import rejects_block, split
from monobeam.logs import block, columns, schemas
from monobeam.logs.columns import Decoded, Reject
from monobeam.logs.log import AwayError, Chunk, Log, clip
from monobeam.logs.watermark import Watermark
from monobeam.transforms import resources
from monobeam.transforms.append import Run, run_of
from monobeam.transforms.measures import measure
from monobeam.transforms.tracker import END_OF_TIME, Ranges, RangesTracker

DEAD_LETTERS = "dead_letters"
KeyedBlock = tuple[int, bytes]
"""(join shard, Arrow block)."""

DECODERS = {"impressions": columns.impressions, "actions": columns.actions}


class Partition(NamedTuple):
    """One partition of one raw log, as a Beam element."""

    kind: str
    uri: str
    number: int


@dataclass(frozen=True)
class Tail:
    """How logs are followed, and from where; everything in microseconds.

    ``since_us``: the time of the first record that is needed, by kind of log; a kind without is read from its start.
    """

    disorder_us: int
    idle_after_us: int
    poll_us: int
    since_us: Mapping[str, int] = field(default_factory=dict)


@dataclass
class ReadLogs(beam.PTransform[Any, Any]):
    """Raw logs to blocks keyed by join shard, for ever; event-time watermarks follow ``tail``.

    Each log is ``(kind, uri, partitions)`` with kind ``impressions`` or ``actions``. One reader reads all partitions,
    in one bundle at a time.
    Main output: ``KeyedBlock``. Output ``dead_letters``: ``Run`` of records that could not be decoded.
    """

    logs: Sequence[tuple[str, str, int]]
    shards: int
    tail: Tail

    def expand(self, root: beam.pvalue.PBegin) -> Any:
        """Wire the reader."""
        partitions = tuple(Partition(kind, uri, number) for kind, uri, count in self.logs for number in range(count))
        return (
            root
            | "Impulse" >> beam.Impulse()
            | "Partitions" >> beam.Map(lambda _: partitions).with_output_types(tuple[Partition, ...])
            | "Read" >> to_blocks(_TailPartitions(self.shards, self.tail))
        )


def to_blocks(reader: beam.DoFn) -> beam.PTransform:
    """A reader with its outputs: blocks, and dead letters."""
    steps = beam.ParDo(reader).with_output_types(KeyedBlock, **{DEAD_LETTERS: Run})
    return steps.with_outputs(DEAD_LETTERS, main="blocks")


# Of this process, because a partition's reader may be another DoFn instance at each checkpoint: the watermark of each
# partition, and the offset up to which it has seen records. A bundle that is tried again starts elsewhere.
_lock = threading.Lock()
_watermarks: dict[tuple[str, Partition], tuple[int, Watermark]] = {}


class _TailPartitions(beam.DoFn, beam.transforms.core.RestrictionProvider):
    """Follows partitions for ever; checkpoints itself so that bundles stay short.

    What it knows of a partition's progress is the watermark alone.
    """

    MAX_RECORDS = 4096
    MAX_SECONDS = 0.5

    def __init__(self, shards: int, tail: Tail) -> None:
        self._shards = shards
        self._tail = tail
        self._job = uuid.uuid4().hex

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        partitions: tuple[Partition, ...],
        tracker: Any = beam.DoFn.RestrictionParam(),
        estimator: Any = beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider()),
    ) -> Iterator[Any]:
        watermarks = yield from self._read(partitions, tracker, estimator, time.monotonic() + self.MAX_SECONDS)
        self._advance(watermarks, estimator)
        tracker.defer_remainder(Duration(micros=self._tail.poll_us))

    def initial_restriction(self, partitions: tuple[Partition, ...]) -> Ranges:
        starts = [first(resources.reader(each.uri, each.number), each, self._tail) for each in partitions]
        return Ranges(tuple(starts), (END_OF_TIME,) * len(partitions))

    def create_tracker(self, restriction: Ranges) -> RangesTracker:
        return RangesTracker(restriction)

    def restriction_size(self, partitions: tuple[Partition, ...], restriction: Ranges) -> int:
        try:
            ends = [_end(partition) for partition in partitions]
        except AwayError:  # it is only asked to know how much work is left
            return 0
        bounds = zip(restriction.starts, restriction.stops, ends, strict=True)
        return sum(max(0, min(stop, end) - start) for start, stop, end in bounds)

    def _read(
        self, partitions: tuple[Partition, ...], tracker: Any, estimator: Any, deadline: float
    ) -> Generator[TimestampedValue | beam.pvalue.TaggedOutput, None, list[Watermark]]:
        """Claim and emit chunks until the ranges or what is there now ends, or the deadline passes.

        Gives the watermark of each partition.
        """
        for uri, count in Counter(partition.uri for partition in partitions).items():
            resources.warn_of_unread(uri, count)
        ranges = tracker.current_restriction()
        watermarks = [self._take(*place, estimator) for place in zip(partitions, ranges.starts, strict=True)]
        reached = list(ranges.starts)
        for index, partition in enumerate(partitions):
            offset, stop = ranges.starts[index], ranges.stops[index]
            while offset < stop:
                wanted = min(self.MAX_RECORDS, stop - offset)
                chunks = resources.read(partition.uri, partition.number, offset, wanted)
                if not chunks or not tracker.try_claim((index, min(chunks[-1].end, stop))):
                    break
                clipped = [clip(chunk, offset, stop) for chunk in chunks]
                yield from self._emit(partition, [chunk for chunk in clipped if chunk.count], watermarks[index])
                reached[index] = offset = chunks[-1].end
                if time.monotonic() > deadline:
                    break
        self._keep(partitions, reached, watermarks)
        if given := sum(reached) - sum(ranges.starts):
            measure("read", "bundle_records", given)
        return watermarks

    def _emit(self, partition: Partition, chunks: Sequence[Chunk], watermark: Watermark) -> Iterator[Any]:
        now_us = time.time_ns() // 1000
        for chunk in chunks:
            decoded = DECODERS[partition.kind](chunk, partition.uri, now_us)
            times = decoded.batch.column("_time").to_numpy()
            watermark.observe(int(times.max()) if len(times) else 0, now_us)
            stamp = Timestamp(micros=int(times.min()) if len(times) else watermark.at(now_us))
            yield from keyed(partition, chunk.offset, decoded, self._shards, stamp, now_us)

    def _take(self, partition: Partition, offset: int, estimator: Any) -> Watermark:
        """The watermark of a partition at an offset. It is taken away: unless the bundle ends well, none is left."""
        with _lock:
            kept_at, watermark = _watermarks.pop((self._job, partition), (-1, None))
        if watermark is not None and kept_at == offset:
            return watermark
        resumed = estimator.current_watermark()
        return Watermark(self._tail.disorder_us, self._tail.idle_after_us, 0 if resumed is None else resumed.micros)

    def _keep(self, partitions: Sequence[Partition], reached: Sequence[int], watermarks: Sequence[Watermark]) -> None:
        with _lock:
            for partition, offset, watermark in zip(partitions, reached, watermarks, strict=True):
                _watermarks[self._job, partition] = offset, watermark

    def _advance(self, watermarks: Sequence[Watermark], estimator: Any) -> None:
        """Tell the runner how far event time has come: as far as in the partition that is furthest behind."""
        now_us = time.time_ns() // 1000
        reached = Timestamp(micros=min(watermark.at(now_us) for watermark in watermarks))
        current = estimator.current_watermark()
        if current is None or reached > current:
            estimator.set_watermark(reached)


def first(log: Log, partition: Partition, tail: Tail) -> int:
    """The offset from which a partition must be read: of the first record that is needed, or kept."""
    number, since_us = partition.number, tail.since_us.get(partition.kind)
    if since_us is None:
        return resources.patiently(lambda: log.start(number))
    return resources.patiently(lambda: log.offset_for_time(number, since_us, tail.disorder_us))


def _end(partition: Partition) -> int:
    return resources.reader(partition.uri, partition.number).end(partition.number)


def keyed(
    place: Partition, offset: int, decoded: Decoded, shards: int, stamp: Timestamp, now_us: int
) -> Iterator[TimestampedValue | beam.pvalue.TaggedOutput]:
    """What was decoded from ``offset`` on as blocks, by join shard, and what could not be as dead letters."""
    if decoded.rejects:
        yield beam.pvalue.TaggedOutput(DEAD_LETTERS, _dead_letters(place.uri, decoded.rejects, now_us))
        count = sum(reject.count for reject in decoded.rejects)
        lost = rejects_block(place.kind, count, place.uri, place.number, offset)
        yield TimestampedValue((place.number % shards, block.encode(lost)), stamp)
    for shard, part in split(decoded.batch, shards):
        yield TimestampedValue((shard, block.encode(part)), stamp)
    if decoded.batch.num_rows:
        newest = pc.max(decoded.batch.column("_time")).as_py()
        measure("read", "lag_ms", (now_us - newest) / 1000)


def _dead_letters(uri: str, rejects: Sequence[Reject], now_us: int) -> Run:
    records = [
        {
            "log": uri,
            "partition": reject.partition,
            "offset": reject.offset,
            "count": reject.count,
            "reason": reject.reason,
            "time": now_us,
            "payload": reject.payload,
        }
        for reject in rejects
    ]
    return run_of(0, schemas.DEAD_LETTERS, *records)
