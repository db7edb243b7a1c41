"""A topic as a log."""

from __future__ import annotations

import threading

from confluent_kafka import Consumer

from monobeam.logs.kafka import topic
from monobeam.logs.kafka.address import Address
from monobeam.logs.kafka.appender import KafkaAppender
from monobeam.logs.kafka.client import Client, consumer
from monobeam.logs.kafka.messages import Messages
from monobeam.logs.kafka.partition import Partition
from monobeam.logs.log import Chunk, LogError, Schema

PROBE = 100
"""How many records must be too early to be believed."""


class KafkaLog:
    """A log in a Kafka topic (see Log). One Avro datum per message.

    Any number of appenders may be open on a partition: what monobeam itself writes twice is recognised by its readers
    (examples by their keys, sync events by their epochs), so that nobody needs to be locked out.
    """

    def __init__(self, uri: str, partitions: int = 0):
        self._address = Address.parse(uri)
        self._count = partitions
        self._messages = Messages(self._address)
        self._lock = threading.Lock()
        self._client: Client[Consumer] | None = None
        self._partitions: dict[int, Partition] = {}

    @property
    def uri(self) -> str:
        """What ``open_log`` opens it by."""
        return self._address.uri

    def partitions(self) -> list[int]:
        """The numbers of the partitions there are now."""
        return list(range(max(self._found(), self._count)))

    def start(self, partition: int) -> int:
        """The offset of the first record that is kept (see Log)."""
        return self._partition(partition).start()

    def end(self, partition: int) -> int:
        """The offset after the last record that is committed (see Log)."""
        return self._partition(partition).end()

    def read(self, partition: int, offset: int, max_records: int) -> list[Chunk]:
        """Records from ``offset`` on (see Log)."""
        return self._partition(partition).read(offset, max_records)

    def offset_for_time(self, partition: int, time_us: int, disorder_us: int) -> int:
        """See Log. Found by bisection over the records themselves.

        What lies before a record was appended before it, so not later than ``disorder_us`` after its time, and is of
        no later time than that. Kafka's own timestamps are not asked: whoever produces may set them to anything.
        """
        from monobeam.logs.columns import latest_time

        place = self._partition(partition)
        low, high = place.start(), place.end()
        while low < high:
            middle = (low + high) // 2
            chunks = [chunk for chunk in place.read(middle, PROBE) if chunk.count]
            latest = [latest_time(chunk) for chunk in chunks]
            if chunks and all(time is not None and time + disorder_us < time_us for time in latest):
                low = max(middle + 1, chunks[0].offset)
            else:
                high = middle
        return low

    def appender(self, partition: int, schema: Schema) -> KafkaAppender:
        """Start to append; a topic, or a partition of it, that is not there is made."""
        if partition < 0 or (self._count and partition >= self._count):
            raise LogError(f"{self.uri}: partition {partition}: must be from 0 to {self._count - 1}")
        topic.ensure(self._address, max(self._count, partition + 1))
        return KafkaAppender(self._address, partition, schema, self.end(partition))

    def _found(self) -> int:
        with self._lock:
            if self._client is None:
                self._client = consumer(self._address)
            return topic.partitions(self._address, self._client)

    def _partition(self, number: int) -> Partition:
        with self._lock:
            if number not in self._partitions:
                self._partitions[number] = Partition(self._address, number, self._messages)
            return self._partitions[number]
