"""Read raw records from Pub/Sub subscriptions as keyed Arrow blocks: by Dataflow's own source there, else by ours."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np
import pyarrow as pa
from apache_beam.io.filesystems import FileSystems
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.options.pipeline_options import StandardOptions
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Duration, Timestamp
from apache_beam.utils.windowed_value import WindowedValue

from monobeam.logs.columns import Decoded
from monobeam.logs.log import Chunk, Part
from monobeam.logs.pubsub import LEASE_S, Message, Messages, Subscription, number_of, schema_text
from monobeam.logs.watermark import Watermark
from monobeam.transforms.measures import measure
from monobeam.transforms.read import DEAD_LETTERS, DECODERS, Partition, Tail, keyed, to_blocks
from monobeam.transforms.tracker import END_OF_TIME, Ranges, RangesTracker

MOST_RECORDS = 4096


class Source(NamedTuple):
    """A subscription as a Beam element: what its records are, its address, and their schema (JSON)."""

    kind: str
    uri: str
    schema: str

    @property
    def subscription(self) -> Subscription:
        """Its address, taken apart."""
        return Subscription.parse(self.uri)

    @property
    def place(self) -> Partition:
        """Where dead letters say that its records are from."""
        return Partition(self.kind, self.subscription.uri, 0)


def source(kind: str, uri: str) -> Source:
    """A subscription with its schema, from a file of this machine or ``gs://``; ValueError, OSError if it has none."""
    subscription = Subscription.parse(uri)
    with FileSystems.open(subscription.schema) as file:
        return Source(kind, uri, schema_text(file.read().decode(), subscription.schema))


def on_dataflow(pipeline: beam.Pipeline) -> bool:
    """Whether a pipeline is for Dataflow."""
    runner = pipeline.options.view_as(StandardOptions).runner or ""
    return str(runner).rsplit(".", 1)[-1] == "DataflowRunner"


@dataclass
class ReadSubscriptions(beam.PTransform[Any, Any]):
    """Messages to blocks keyed by join shard, for ever; a message is delivered at least once.

    Main output ``blocks``: ``KeyedBlock``. Output ``dead_letters``: ``Run`` of records that could not be decoded; their
    offset is the id of the message. ``behind_us`` says by how much the watermark is ahead of the records.
    """

    sources: Sequence[Source]
    shards: int
    tail: Tail

    def expand(self, root: Any) -> Any:
        """Wire Dataflow's source, one for each subscription, or one reader of all."""
        if on_dataflow(root.pipeline):
            return self._by_dataflow(root)
        sources, reader = tuple(self.sources), _ReceiveMessages(self.shards, self.tail)
        return (
            root
            | "Impulse" >> beam.Impulse()
            | "Sources" >> beam.Map(lambda _: sources).with_output_types(tuple[Source, ...])
            | "Receive" >> to_blocks(reader)
        )

    def behind_us(self, pipeline: beam.Pipeline) -> int:
        """Dataflow's watermark is that of publishing, which comes up to the bound on disorder after a record's time."""
        return self.tail.disorder_us if on_dataflow(pipeline) else 0

    def _by_dataflow(self, root: Any) -> dict[str, Any]:
        blocks, letters = [], []
        for number, each in enumerate(self.sources):
            messages = root | f"Messages{number}" >> beam.io.ReadFromPubSub(
                subscription=each.subscription.path, with_attributes=True
            )
            gathered = messages | f"Gather{number}" >> to_blocks(_GatherMessages(each, self.shards))
            blocks.append(gathered.blocks)
            letters.append(gathered.dead_letters)
        return {"blocks": blocks | "Blocks" >> beam.Flatten(), DEAD_LETTERS: letters | "Undecodable" >> beam.Flatten()}


def decoded(source: Source, messages: Sequence[Any], now_us: int) -> Decoded:
    """Messages as one batch, and what cannot be decoded, each at its own offset: the number of its message."""
    data = [message.data for message in messages]
    numbers = np.array([number_of(message) for message in messages], np.int64)
    chunk = Chunk(0, 0, len(data), source.schema, b"".join(data), tuple(Part(1, len(datum)) for datum in data))
    found = DECODERS[source.kind](chunk, source.place.uri, now_us)
    at = found.batch.schema.get_field_index("_offset")
    offsets = pa.array(numbers[found.batch.column(at).to_numpy()])
    batch = found.batch.set_column(at, found.batch.schema.field(at), offsets)
    return Decoded(batch, tuple(replace(reject, offset=int(numbers[reject.offset])) for reject in found.rejects))


class _GatherMessages(beam.DoFn):
    """Messages of a bundle to blocks."""

    def __init__(self, source: Source, shards: int) -> None:
        self._source = source
        self._shards = shards
        self._messages: list[Any] = []
        self._stamp = Timestamp(0)

    def start_bundle(self) -> None:
        self._messages = []

    def process(self, message: Any, published: Any = beam.DoFn.TimestampParam) -> Iterator[Any]:
        self._stamp = min(self._stamp, published) if self._messages else published
        self._messages.append(message)
        if len(self._messages) >= MOST_RECORDS:
            yield from self._blocks()

    def finish_bundle(self) -> Iterator[Any]:
        for found in self._blocks():
            if isinstance(found, beam.pvalue.TaggedOutput):
                yield beam.pvalue.TaggedOutput(found.tag, self._windowed(found.value))
            else:
                yield self._windowed(found.value)

    def _blocks(self) -> Iterator[Any]:
        messages, self._messages = self._messages, []
        if messages:
            now_us = time.time_ns() // 1000
            measure("read", "bundle_records", len(messages))
            found = decoded(self._source, messages, now_us)
            first = number_of(messages[0])
            yield from keyed(self._source.place, first, found, self._shards, self._stamp, now_us)

    def _windowed(self, value: Any) -> WindowedValue:
        return WindowedValue(value, self._stamp, (GlobalWindow(),))


@dataclass(eq=False)
class _Held:
    """Messages that one bundle gave and nobody has acknowledged; ``told``: whether that bundle was finalized."""

    messages: list[Message]
    told: bool = False

    def release(self) -> list[Message]:
        """Them, once."""
        released, self.messages = self.messages, []
        return released


class _Reading:
    """What this process has of a subscription: the stream of messages, and those that are not acknowledged yet.

    A bundle that is finalized need not be in a checkpoint: when Flink tells of one, Beam finalizes all bundles that
    have ended until then, also those after the checkpoint was taken. So messages are acknowledged when a bundle is
    finalized that began after theirs was: then it is another checkpoint that Flink tells of, and they are in it.

    ``given``: how many messages were given by bundles that ended well; -1 while one is at work. A reader that is to go
    on from another number follows one that failed, or one in another process: what that had received comes again.
    """

    def __init__(self, source: Source, given: int) -> None:
        self.messages = Messages(source.subscription)
        self.given = given
        self.watermark = Watermark(0, 0)
        self.held_until = 0.0
        self._held: list[_Held] = []
        self._lock = threading.Lock()

    def gave(self, messages: list[Message]) -> _Held:
        """A bundle gave messages."""
        held = _Held(messages)
        with self._lock:
            self._held.append(held)
        return held

    def told(self) -> list[_Held]:
        """What was given by bundles that have been finalized."""
        with self._lock:
            return [held for held in self._held if held.told]

    def finalized(self, told: Sequence[_Held], given: _Held | None) -> None:
        """A bundle was, at whose beginning others had been ``told``."""
        with self._lock:
            if given is not None:
                given.told = True
            released = [message for held in told for message in held.release()]
            self._held = [held for held in self._held if held.messages]
        for message in released:
            message.ack()

    def give_back(self) -> None:
        """Have everything delivered again that was not acknowledged."""
        with self._lock:
            released = [message for held in self._held for message in held.release()]
            self._held = []
        for message in released:
            message.nack()


_lock = threading.Lock()
_readings: dict[tuple[str, Source], _Reading] = {}


def close_all() -> None:
    """Stop receiving in this process (the end of a pipeline, or of a test)."""
    with _lock:
        readings = list(_readings.values())
        _readings.clear()
    for reading in readings:
        reading.messages.close()


class _ReceiveMessages(beam.DoFn, beam.transforms.core.RestrictionProvider):
    """Gives what arrives, and acknowledges it when the runner has made durable what became of it.

    A restriction counts, for each subscription, the messages given so far.
    """

    def __init__(self, shards: int, tail: Tail) -> None:
        self._shards = shards
        self._tail = tail
        self._job = uuid.uuid4().hex

    def initial_restriction(self, sources: tuple[Source, ...]) -> Ranges:
        return Ranges((0,) * len(sources), (END_OF_TIME,) * len(sources))

    def create_tracker(self, restriction: Ranges) -> RangesTracker:
        return RangesTracker(restriction)

    def restriction_size(self, sources: tuple[Source, ...], restriction: Ranges) -> int:
        return 1  # Nobody says how many messages wait.

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        sources: tuple[Source, ...],
        finalizer: Any = beam.DoFn.BundleFinalizerParam,  # Beam wants it before the others
        tracker: Any = beam.DoFn.RestrictionParam(),
        estimator: Any = beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider()),
    ) -> Iterator[Any]:
        starts = tracker.current_restriction().starts
        readings = [self._take(*place, estimator) for place in zip(sources, starts, strict=True)]
        told = [reading.told() for reading in readings]
        held: list[_Held | None] = [None] * len(readings)
        reached = list(starts)
        for index, (each, reading) in enumerate(zip(sources, readings, strict=True)):
            messages = reading.messages.take(MOST_RECORDS)
            after = starts[index] + len(messages)
            if not messages:
                continue
            held[index] = reading.gave(messages)
            if not tracker.try_claim((index, after)):
                reading.give_back()
                continue
            reached[index] = after
            yield from self._blocks(each, messages, reading.watermark)
        for reading, given in zip(readings, reached, strict=True):
            reading.given = given
        for reading, before, given_now in zip(readings, told, held, strict=True):
            if before or given_now is not None:
                finalizer.register(partial(reading.finalized, before, given_now))
        if received := sum(reached) - sum(starts):
            measure("read", "bundle_records", received)
        self._advance(readings, estimator)
        tracker.defer_remainder(Duration(micros=self._tail.poll_us))

    def _blocks(self, each: Source, messages: Sequence[Message], watermark: Watermark) -> Iterator[Any]:
        now_us = time.time_ns() // 1000
        found = decoded(each, messages, now_us)
        times = found.batch.column("_time").to_numpy()
        watermark.observe(int(times.max()) if len(times) else 0, now_us)
        stamp = Timestamp(micros=int(times.min()) if len(times) else watermark.at(now_us))
        yield from keyed(each.place, number_of(messages[0]), found, self._shards, stamp, now_us)

    def _take(self, source: Source, given: int, estimator: Any) -> _Reading:
        """What this process has of a subscription, for a bundle that begins after ``given`` messages."""
        with _lock:
            reading = _readings.get((self._job, source))
            if reading is None:
                reading = _readings[self._job, source] = _Reading(source, -1)
        expected, reading.given = reading.given, -1
        if expected != given:
            self._begin(reading, estimator)
        return reading

    def _begin(self, reading: _Reading, estimator: Any) -> None:
        """Nothing is known of what a reader before this one received; if there was one, its messages come again soon.

        Until then event time stands still, or they would be late.
        """
        reading.give_back()
        resumed = estimator.current_watermark()
        start_us = 0 if resumed is None else resumed.micros
        reading.watermark = Watermark(self._tail.disorder_us, self._tail.idle_after_us, start_us)
        reading.held_until = 0.0 if start_us <= 0 else time.monotonic() + LEASE_S

    def _advance(self, readings: Sequence[_Reading], estimator: Any) -> None:
        now_us = time.time_ns() // 1000
        reached = Timestamp(micros=min(reading.watermark.at(now_us) for reading in readings))
        if time.monotonic() < max(reading.held_until for reading in readings):
            return
        current = estimator.current_watermark()
        if current is None or reached > current:
            estimator.set_watermark(reached)
