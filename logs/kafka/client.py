"""Clients of librdkafka, set up for logs, and what their errors mean."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient

from monobeam.logs.kafka.address import Address
from monobeam.logs.log import AwayError

PATIENCE_S = 5.0
"""How long an answer is waited for; then the log is away."""

# All through an outage it has something to say every second; what matters of it is in the errors that are raised.
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
    "compression.type": "lz4",
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
    KafkaError._TRANSPORT,
    KafkaError._TIMED_OUT,
    KafkaError._TIMED_OUT_QUEUE,
    KafkaError._MSG_TIMED_OUT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError._RESOLVE,
    KafkaError._WAIT_CACHE,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.REQUEST_TIMED_OUT,
    KafkaError.NOT_ENOUGH_REPLICAS,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND,
    KafkaError.BROKER_NOT_AVAILABLE,
    KafkaError.NOT_CONTROLLER,
)

Made = TypeVar("Made", Consumer, Producer)
Given = TypeVar("Given")


class Complaints:
    """The last thing that a client said was wrong, which is more than a timeout tells."""

    def __init__(self) -> None:
        self.last = ""

    def __call__(self, error: KafkaError) -> None:
        """Hear one. That all brokers are down says less than why the last of them is."""
        if error.code() != KafkaError._ALL_BROKERS_DOWN:
            self.last = error.str()


def consumer(address: Address, complaints: Complaints) -> Consumer:
    """A client that reads; ValueError if a setting is none."""
    return _made(Consumer, address, {**SHARED, **READING, **address.settings(), **READING_ALWAYS}, complaints)


def producer(address: Address, complaints: Complaints, batch_bytes: int) -> Producer:
    """A client that appends, in batches of at most so many bytes; ValueError if a setting is none."""
    settings = {"batch.size": str(batch_bytes), **SHARED, **WRITING, **address.settings(), **WRITING_ALWAYS}
    return _made(Producer, address, settings, complaints)


def admin(address: Address) -> AdminClient:
    """A client that makes topics; ValueError if a setting is none."""
    settings: dict[str, Any] = SHARED | address.settings() | {"bootstrap.servers": address.brokers}
    return AdminClient(settings, logger=CLIENT_LOG)


def _made(kind: type[Made], address: Address, settings: dict[str, Any], complaints: Complaints) -> Made:
    settings |= {"bootstrap.servers": address.brokers, "error_cb": complaints}
    try:
        return kind(settings, logger=CLIENT_LOG)
    except KafkaException as error:
        raise ValueError(f"{address.place}: {error.args[0].str()}") from None


def asked(address: Address, question: Callable[[], Given]) -> Given:
    """The answer to a question to the brokers; AwayError if none comes, OSError if they refuse."""
    try:
        return question()
    except KafkaException as error:
        raise meaning(address, error.args[0]) from error


def is_unknown(error: BaseException) -> bool:
    """Whether the brokers said that there is no such topic or partition."""
    cause = error.__cause__
    return isinstance(cause, KafkaException) and cause.args[0].code() in UNKNOWN


def meaning(address: Address, error: KafkaError, complaint: str = "") -> OSError:
    """A client's error as a log's: AwayError for what passes by itself."""
    said = f"{address.place}: {error.str()}{f' ({complaint})' if complaint else ''}"
    return AwayError(said) if error.code() in _AWAY or error.retriable() else OSError(said)
