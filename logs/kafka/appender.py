"""Appends to one partition of a topic."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from confluent_kafka import KafkaError, KafkaException, Message, Producer

from monobeam.logs.kafka.address import Address
from monobeam.logs.kafka.client import Client, producer
from monobeam.logs.kafka.messages import SCHEMA_HEADER
from monobeam.logs.kafka.topic import largest_message
from monobeam.logs.log import LogError, Schema, TooLargeError, encode_datums, split_datums

_LOGGER = logging.getLogger(__name__)
FRAME_BYTES = 256
"""More than Kafka adds to a message, its header's name included."""
BATCH_BYTES = 1_000_000
WARN_EVERY_S = 10.0


class KafkaAppender:
    """An idempotent producer: what it appends comes once and in order, however often it must be sent.

    Others may append to the partition at the same time: calls follow one another in some order. A call whose datums
    fit into one batch (a megabyte) is there as a whole or not at all; of a larger one, a process that dies may leave
    the first batches. One call at a time.
    """

    def __init__(self, address: Address, partition: int, schema: Schema, end: int):
        self._address = address
        self._partition = partition
        self._schema = json.dumps(schema, separators=(",", ":"))
        self._headers: list[tuple[str, str | bytes | None]] = [(SCHEMA_HEADER, self._schema.encode())]
        self._limit = largest_message(address)
        self._client: Client[Producer] | None = self._new()
        self._closed = False
        self.end = end

    def _new(self) -> Client[Producer]:
        return producer(self._address, max(1, min(BATCH_BYTES, self._limit - FRAME_BYTES)))

    def append(self, records: Sequence[Mapping[str, Any]]) -> int:
        """Append all records or none; the offset of the first (see Appender)."""
        return self._append(encode_datums(self._schema, records))

    def append_payload(self, count: int, payload: bytes) -> int:
        """Append ``count`` datums that are encoded already; ValueError if they cannot be told apart."""
        return self._append([payload] if count == 1 else split_datums(self._schema, count, payload))

    def _append(self, datums: Sequence[bytes]) -> int:
        if self._closed:
            raise LogError(f"{self._address.place}: the appender is closed")
        for datum in datums:
            self._check_size(len(datum))
        if not datums:
            return self.end
        client = self._client = self._client or self._new()
        told: list[tuple[KafkaError | None, int]] = []

        def tell(error: KafkaError | None, message: Message) -> None:
            offset = message.offset()
            told.append((error, -1 if offset is None else offset))

        try:
            for datum in datums:
                self._produce(client, datum, tell)
            self._wait(client)
            self._check(client, told)
        except BaseException:
            self._client = None  # what it still holds must not come later, after what is appended then
            client.it.purge()
            raise
        self.end = told[-1][1] + 1
        return told[0][1]

    def _check_size(self, size: int) -> None:
        whole = size + len(self._schema) + FRAME_BYTES
        if whole > self._limit:
            raise TooLargeError(
                f"{self._address.place}: partition {self._partition}: a message of {whole} bytes (a record of {size}, "
                f"its schema of {len(self._schema)}): the topic takes {self._limit} (max.message.bytes)"
            )

    def _produce(self, client: Client[Producer], datum: bytes, tell: Any) -> None:
        while True:
            try:
                client.it.produce(
                    self._address.topic, datum, partition=self._partition, headers=self._headers, on_delivery=tell
                )
                return
            except BufferError:  # so much waits for the broker already
                client.it.poll(0.1)
            except KafkaException as error:
                raise client.meaning(error.args[0]) from error

    def _wait(self, client: Client[Producer]) -> None:
        """Until every message is acknowledged or given up."""
        since = warned = time.monotonic()
        while client.it.flush(1.0):
            if (now := time.monotonic()) - warned >= WARN_EVERY_S:
                warned = now
                waited = "%s: partition %d: waiting for %d s%s"
                _LOGGER.warning(waited, self._address.place, self._partition, now - since, client.complaint())

    def _check(self, client: Client[Producer], told: list[tuple[KafkaError | None, int]]) -> None:
        for error, _ in told:
            if error is None:
                continue
            if error.code() == KafkaError.MSG_SIZE_TOO_LARGE:
                raise TooLargeError(f"{self._address.place}: partition {self._partition}: {error.str()}")
            raise client.meaning(error)

    def close(self) -> None:
        """Append no more."""
        self._closed, self._client = True, None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
