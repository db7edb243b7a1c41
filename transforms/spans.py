"""Read what raw logs hold now: each partition is cut into spans of offsets, which workers share out.

Nothing is decided before all is read, and what is decided then does not depend on the order in which it was read.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import apache_beam as beam
from apache_beam.utils.timestamp import Timestamp

from monobeam.logs import block, schemas
from monobeam.logs.log import Chunk, clip, open_log
from monobeam.transforms import resources
from monobeam.transforms.append import Run, run_of
from monobeam.transforms.measures import measure
from monobeam.transforms.read import DEAD_LETTERS, DECODERS, KeyedBlock, Partition, Tail, first, keyed

METRICS = "metrics"
SPAN_RECORDS = 1 << 16
MOST_SPANS = 1 << 12


class Span(NamedTuple):
    """Offsets from ``start`` to ``stop`` (exclusive) of a partition, as a Beam element.

    ``again``: a run before this one has read them, and has counted what cannot be used. ``known_from_us``: records of
    an earlier time come too late for the run that they belong to, and count as known from then on; None: at their own.
    """

    partition: Partition
    start: int
    stop: int
    again: bool = False
    known_from_us: int | None = None


def cut(spans: Sequence[Span]) -> list[Span]:
    """The same offsets in spans that are small enough to be shared out, and not too many for a graph."""
    length = max(SPAN_RECORDS, sum(span.stop - span.start for span in spans) // MOST_SPANS)
    return [
        span._replace(start=start, stop=min(start + length, span.stop))
        for span in spans
        for start in range(span.start, span.stop, length)
    ]


def whole(logs: Sequence[tuple[str, str, int]], tail: Tail) -> list[Span]:
    """All that logs ``(kind, uri, partitions)`` hold now, from what is needed of each on."""
    return [_whole(Partition(kind, uri, number), tail) for kind, uri, count in logs for number in range(count)]


def _whole(partition: Partition, tail: Tail) -> Span:
    log = open_log(partition.uri)
    start = first(log, partition, tail)
    return Span(partition, start, max(start, resources.patiently(lambda: log.end(partition.number))))


@dataclass
class ReadSpans(beam.PTransform[Any, Any]):
    """Spans of raw logs to blocks keyed by join shard.

    Main output: ``KeyedBlock``. Output ``dead_letters``: ``Run`` of records that could not be decoded. Output
    ``metrics``: ``Run`` with how many records were read, for each span.
    """

    spans: Sequence[Span]
    shards: int

    def expand(self, root: beam.pvalue.PBegin) -> Any:
        """Wire an impulse to the spans, and these to whoever has time to read."""
        pieces = cut(self.spans)
        read = beam.ParDo(_ReadSpan(self.shards))
        read = read.with_output_types(KeyedBlock, **{DEAD_LETTERS: Run, METRICS: Run})
        return (
            root
            | "Impulse" >> beam.Impulse()
            | "Spans" >> beam.FlatMap(lambda _: pieces).with_output_types(Span)
            | "Spread" >> beam.Reshuffle()
            | "Read" >> read.with_outputs(DEAD_LETTERS, METRICS, main="blocks")
        )


class _ReadSpan(beam.DoFn):
    MAX_RECORDS = 1 << 14

    def __init__(self, shards: int) -> None:
        self._shards = shards

    def process(self, span: Span) -> Iterator[Any]:
        partition, offset = span.partition, span.start
        while offset < span.stop:
            wanted = min(self.MAX_RECORDS, span.stop - offset)
            chunks = resources.read(partition.uri, partition.number, offset, wanted, alone=False)
            if not chunks:
                raise OSError(f"{partition.uri}: partition {partition.number} ended at {offset}, not at {span.stop}")
            for chunk in chunks:
                if (clipped := clip(chunk, offset, span.stop)).count:
                    yield from self._blocks(span, clipped)
            offset = chunks[-1].end
        measure("read", "bundle_records", span.stop - span.start)
        yield beam.pvalue.TaggedOutput(METRICS, _report(span))

    def _blocks(self, span: Span, chunk: Chunk) -> Iterator[Any]:
        now_us = time.time_ns() // 1000
        decoded = DECODERS[span.partition.kind](chunk, span.partition.uri, now_us)
        if span.again:
            decoded = replace(decoded, rejects=())
        if span.known_from_us is not None:
            decoded = replace(decoded, batch=block.label_known_from(decoded.batch, span.known_from_us))
        times = decoded.batch.column("_time").to_numpy()
        stamp = Timestamp(micros=int(times.min()) if len(times) else 0)
        yield from keyed(span.partition, chunk.offset, decoded, self._shards, stamp, now_us)


def _report(span: Span) -> Run:
    record = {
        "component": "read",
        "key": f"{span.partition.uri} {span.partition.number}",
        "position": span.stop,
        "time": time.time_ns() // 1000,
        "values": {"records": float(span.stop - span.start)},
        "arrays": {},
    }
    return run_of(0, schemas.METRICS, record)
