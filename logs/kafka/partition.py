"""One partition of a topic, read from any offset."""

from __future__ import annotations

import threading
import time

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from monobeam.logs.kafka.address import Address
from monobeam.logs.kafka.client import UNKNOWN, Client, consumer, is_unknown
from monobeam.logs.kafka.messages import Messages
from monobeam.logs.kafka.topic import partitions
from monobeam.logs.log import AwayError, Chunk, LogError

READ_BYTES = 16 << 20
MAX_MESSAGES = 100_000
NOWHERE = -1
MORE_S = 0.02
"""How long who has something waits for more of what is there."""


class Partition:
    """Has a client of its own, which fetches ahead of its reader. Thread-safe.

    What the reader wants next is mostly here already. Where it is not, the end of the partition is asked for, so that
    "nothing new" is always the brokers' word, and never means that they are away.
    """

    def __init__(self, address: Address, number: int, messages: Messages):
        self._address = address
        self._number = number
        self._place = f"{address.place}: partition {number}"
        self._messages = messages
        self._lock = threading.Lock()
        self._client: Client[Consumer] | None = None
        self._position = NOWHERE  # of what the client gives next
        self._known_end = 0

    def start(self) -> int:
        """The offset of the first record that is kept; 0 if there is no such partition."""
        with self._lock:
            return self._bounds()[0]

    def end(self) -> int:
        """The offset after the last record that readers may see; 0 if there is no such partition."""
        with self._lock:
            return self._bounds()[1]

    def read(self, offset: int, max_records: int) -> list[Chunk]:
        """See Log.read."""
        if offset < 0 or max_records < 1:
            raise LogError(f"offset {offset}, max_records {max_records}: must be at least 0 and 1")
        with self._lock:
            if offset + max_records > self._known_end or offset != self._position:
                self._check(offset)
            if offset >= self._known_end:
                return []
            wanted = min(max_records, MAX_MESSAGES)
            messages, reached = self._take(offset, wanted)
            if reached - offset > len(messages):
                # Markers of transactions, or records that its client lost when its broker came back: what is missing
                # is fetched once more, from there.
                self._position = NOWHERE
                messages, reached = self._take(offset, wanted)
            chunks = self._messages.chunks(self._number, messages)
            if reached > (chunks[-1].end if chunks else offset):
                chunks.append(Chunk(self._number, reached, 0, "", b""))
            return chunks

    def _check(self, offset: int) -> None:
        start, end = self._bounds()
        if offset > end:
            raise LogError(f"{self._place}: offset {offset} is beyond the end, which is {end}")
        if offset < start:
            raise LogError(f"{self._place}: offset {offset} is no longer kept: the first is {start}")

    def _bounds(self) -> tuple[int, int]:
        """Where the partition starts and ends now; also remembered."""
        try:
            start, self._known_end = self._ask()
        except OSError as error:
            if not is_unknown(error):
                raise
            # It may have come since the client heard of the topic.
            is_there = self._number < partitions(self._address, self._open())
            start, self._known_end = self._ask() if is_there else (0, 0)
        return start, self._known_end

    def _ask(self) -> tuple[int, int]:
        place, patience_s = TopicPartition(self._address.topic, self._number), Client.PATIENCE_S
        return self._open().ask(lambda it: it.get_watermark_offsets(place, timeout=patience_s))

    def _open(self) -> Client[Consumer]:
        if self._client is None:
            self._client = consumer(self._address)
        return self._client

    def _take(self, offset: int, wanted: int) -> tuple[list[Message], int]:
        """Messages from an offset on, up to the end that is known, and how far they reach."""
        client = self._open()
        if offset != self._position:
            client.it.assign([TopicPartition(self._address.topic, self._number, offset)])
        self._position, position = NOWHERE, offset  # whatever goes wrong, the client begins anew
        taken: list[Message] = []
        size, deadline = 0, time.monotonic() + client.PATIENCE_S
        while len(taken) < wanted and size < READ_BYTES and position < self._known_end:
            found = client.it.consume(wanted - len(taken), timeout=0)
            if not found:
                message = client.it.poll(MORE_S if taken else client.PATIENCE_S)
                found = [] if message is None else [message]
            if not found and taken:
                break
            if not found and time.monotonic() > deadline:
                raise AwayError(f"{self._place}: no answer for {client.PATIENCE_S:g} s{client.complaint()}")
            for message in found:
                position = self._reached(client, message, offset)
                if message.error() is None:
                    taken.append(message)
                    size += len(message)
        self._position = position
        return taken, position

    def _reached(self, client: Client[Consumer], message: Message, offset: int) -> int:
        """Where the client stands after a message, or after what it says instead of one."""
        at, error = message.offset(), message.error()
        if error is None or error.code() == KafkaError._PARTITION_EOF:
            assert at is not None
            return at + (error is None)
        if error.code() in (KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE):
            self._check(offset)
            self._client = None  # the topic was made anew, and this client still has the old one in mind
            raise AwayError(f"{self._place}: {error.str()}")
        raise AwayError(f"{self._place}: {error.str()}") if error.code() in UNKNOWN else client.meaning(error)
