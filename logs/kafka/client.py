"""Clients of librdkafka, set up for logs, and what their errors mean."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from monobeam.logs.kafka.address import Address
from monobeam.logs.log import AwayError

# All through an outage it has something to say every second. What matters of it is in the errors that are raised.
CLIENT_LOG = logging.getLogger("monobeam.librdkafka")
CLIENT_LOG.setLevel(logging.CRITICAL)

# What an address may set otherwise.
SHARED = {
    "reconnect.backoff.max.ms": "1000",  # be back soon after the brokers are
    "topic.metadata.refresh.fast.interval.ms": "50",
}
READING = {
    "group.id": "monobeam",  # a name only: partitions and offsets are given out by the reader itself
    "isolation.level": "read_committed",
    # Who turns back waits for the fetch that is under way, who stands before a transaction's marker for an empty one.
    "fetch.wait.max.ms": "100",
    "queued.max.messages.kbytes": "16384",
    "check.crcs": "true",
}
WRITING = {
    "compression.type": "zstd",
    "message.timeout.ms": "60000",  # of one try; whoever appends may try again
    "message.max.bytes": "1000000000",  # the topic's own limit counts
}
# What it may not.
READING_ALWAYS = {
    "enable.auto.commit": "false",
    "enable.auto.offset.store": "false",
    "auto.offset.reset": "error",
    # The only sign that what is left before the end is not for readers: markers, aborted transactions.
    "enable.partition.eof": "true",
}
WRITING_ALWAYS = {"enable.idempotence": "true", "acks": "all"}

UNKNOWN = (
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_TOPIC_ID,
    KafkaError._UNKNOWN_TOPIC,
    KafkaError._UNKNOWN_PARTITION,
)
_AWAY = (
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.NOT_CONTROLLER,
)
# Of the client's own errors, which have negative numbers, those that do not pass. The others are about connections.
_LASTING = (
    KafkaError._INVALID_ARG,
    KafkaError._AUTHENTICATION,
    KafkaError._FENCED,
    KafkaError._NOT_IMPLEMENTED,
    KafkaError._UNSUPPORTED_FEATURE,
    KafkaError._STATE,
)

Kind = TypeVar("Kind", Consumer, Producer, AdminClient)
Given = TypeVar("Given")


class Client(Generic[Kind]):
    """One of librdkafka's clients, and the last thing that it said was wrong, which is more than a timeout tells.

    ``it``: the client itself. ValueError if a setting is none.
    """

    PATIENCE_S = 10.0
    """How long an answer is waited for; then the log is away."""

    def __init__(self, kind: type[Kind], address: Address, settings: Mapping[str, Any]):
        self._address = address
        self._complaint = ""
        own: dict[str, Any] = {"bootstrap.servers": address.brokers, "error_cb": self._hear}
        try:
            self.it: Kind = kind({**settings, **own}, logger=CLIENT_LOG)
        except KafkaException as error:
            raise ValueError(f"{address.place}: {error.args[0].str()}") from None

    def _hear(self, error: KafkaError) -> None:
        # That all brokers are down says less than why the last of them is.
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self._complaint = error.str()

    def ask(self, question: Callable[[Kind], Given]) -> Given:
        """The answer of the brokers; AwayError if none comes, OSError if they refuse."""
        try:
            return question(self.it)
        except KafkaException as error:
            raise self.meaning(error.args[0]) from error

    def meaning(self, error: KafkaError) -> OSError:
        """A client's error as a log's: AwayError for what passes by itself."""
        said = f"{self._address.place}: {error.str()}{self.complaint()}"
        passes = error.code() in _AWAY or error.retriable() or (error.code() < 0 and error.code() not in _LASTING)
        return AwayError(said) if passes else OSError(said)

    def complaint(self) -> str:
        """What it last complained of, in parentheses; '' if it never did."""
        self.it.poll(0)  # it only complains when it is asked
        return f" ({self._complaint})" if self._complaint else ""


def consumer(address: Address) -> Client[Consumer]:
    """A client that reads."""
    return Client(Consumer, address, {**SHARED, **READING, **address.settings(), **READING_ALWAYS})


def producer(address: Address, batch_bytes: int) -> Client[Producer]:
    """A client that appends, in batches of at most so many bytes."""
    settings = {"batch.size": str(batch_bytes), **SHARED, **WRITING, **address.settings(), **WRITING_ALWAYS}
    return Client(Producer, address, settings)


def admin(address: Address) -> Client[AdminClient]:
    """A client that makes topics."""
    return Client(AdminClient, address, {**SHARED, **address.settings()})


def is_unknown(error: BaseException) -> bool:
    """Whether the brokers said that there is no such topic or partition."""
    cause = error.__cause__
    return isinstance(cause, KafkaException) and cause.args[0].code() in UNKNOWN
