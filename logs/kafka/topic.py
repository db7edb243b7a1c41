"""A topic itself: how many partitions it has, and making more."""

from __future__ import annotations

import logging
import time
from typing import Any

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    ConfigResource,
    NewPartitions,
    NewTopic,
    OffsetSpec,
    ResourceType,
)

from monobeam.logs.kafka.address import Address
from monobeam.logs.kafka.client import UNKNOWN, Client, admin
from monobeam.logs.log import AwayError

_LOGGER = logging.getLogger(__name__)
OURS = {
    "retention.ms": "-1",  # a log keeps its records until somebody says otherwise
    "max.message.bytes": str(64 << 20),  # blocks of examples and sync events are large
}
"""Settings of topics that are made here."""
DEFAULT_LIMIT = 1_048_588
"""Kafka's own default of max.message.bytes."""
_ALREADY = (KafkaError.TOPIC_ALREADY_EXISTS, KafkaError.INVALID_PARTITIONS)


def partitions(address: Address, client: Client[Any]) -> int:
    """How many there are now; 0 where there is no such topic."""
    found = client.ask(lambda it: it.list_topics(address.topic, timeout=client.PATIENCE_S)).topics[address.topic]
    if found.error is not None:
        if found.error.code() in UNKNOWN:
            return 0
        raise client.meaning(found.error)
    return len(found.partitions)


def ensure(address: Address, wanted: int) -> None:
    """See that there are at least so many partitions; OSError if that is not allowed."""
    client = admin(address)
    found = partitions(address, client)
    if found >= wanted:
        return
    if found:
        made = client.it.create_partitions([NewPartitions(address.topic, wanted)])
    else:
        made = client.it.create_topics([NewTopic(address.topic, wanted, config=OURS)])
    try:
        client.ask(lambda _: made[address.topic].result(client.PATIENCE_S))
    except OSError as error:
        cause = error.__cause__
        if not isinstance(cause, KafkaException) or cause.args[0].code() not in _ALREADY:
            raise
    deadline = time.monotonic() + client.PATIENCE_S
    while partitions(address, client) < wanted or not _are_led(address, client, wanted):
        if time.monotonic() > deadline:
            raise AwayError(f"{address.place}: its {wanted} partitions do not appear")
        time.sleep(0.02)


def _are_led(address: Address, client: Client[Any], wanted: int) -> bool:
    """Whether the brokers that lead the partitions know it: for a moment after they are made they do not."""
    places = {TopicPartition(address.topic, number): OffsetSpec.latest() for number in range(wanted)}  # type: ignore[no-untyped-call]
    try:
        for answer in client.it.list_offsets(places, request_timeout=client.PATIENCE_S).values():
            answer.result(client.PATIENCE_S)
    except KafkaException as error:
        said = client.meaning(error.args[0])
        if isinstance(said, AwayError) or error.args[0].code() in (*UNKNOWN, KafkaError.UNKNOWN_LEADER_EPOCH):
            return False
        raise said from error
    return True


def largest_message(address: Address) -> int:
    """The topic's max.message.bytes; Kafka's default where it is not told."""
    resource = ConfigResource(ResourceType.TOPIC, address.topic)
    client = admin(address)
    try:
        found = client.it.describe_configs([resource])[resource].result(client.PATIENCE_S)
        return int(found["max.message.bytes"].value)
    except (KafkaException, KeyError, ValueError, TimeoutError) as error:
        _LOGGER.warning("%s: its max.message.bytes is taken to be %d: %s", address.place, DEFAULT_LIMIT, error)
        return DEFAULT_LIMIT
