"""Pub/Sub's addresses, and what a subscription gives."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest

from monobeam.logs.log import open_log
from monobeam.logs.pubsub import Message, Messages, PubSubError, Subscription, number_of, schema_text
from tests.pubsub import PROJECT, Topic

PATIENCE_S = 60


def uri(topic: Topic) -> str:
    return f"pubsub://{PROJECT}/{topic.name}?schema=s.avsc"


def receive(messages: Messages, count: int) -> list[Message]:
    found: list[Message] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(found) < count:
        assert time.monotonic() < deadline, f"{len(found)} of {count} came"
        found += messages.take(count - len(found))
        time.sleep(0.01)
    return found


@pytest.fixture
def topic(new_topic: Callable[[], Topic]) -> Topic:
    return new_topic()


@pytest.fixture
def messages(topic: Topic) -> Iterator[Messages]:
    receiving = Messages(Subscription.parse(uri(topic)))
    yield receiving
    receiving.close()


def test_an_address_names_project_subscription_and_schema() -> None:
    found = Subscription.parse("pubsub://my-project/shown?schema=gs://bucket/shown.avsc")
    assert (found.project, found.name, found.schema) == ("my-project", "shown", "gs://bucket/shown.avsc")
    assert found.path == "projects/my-project/subscriptions/shown"
    assert found.uri == "pubsub://my-project/shown"


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("pubsub://my-project?schema=a", "must be pubsub://PROJECT/SUBSCRIPTION"),
        ("pubsub:shown", "must be pubsub://PROJECT/SUBSCRIPTION"),
        ("pubsub://my-project/a/b?schema=a", "must be pubsub://PROJECT/SUBSCRIPTION"),
        ("pubsub://my-project/shown", "messages do not say their schema"),
        ("pubsub://my-project/shown?schema=", "messages do not say their schema"),
        ("pubsub://my-project/shown?schema=a&acks=1", "there is no option 'acks'"),
    ],
)
def test_what_is_no_address_is_quoted(address: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refused:
        Subscription.parse(address)
    assert f'"{address}"' in str(refused.value)


def test_it_is_no_log() -> None:
    with pytest.raises(ValueError, match=r"'pubsub://p/s\?schema=a': Pub/Sub has no offsets"):
        open_log("pubsub://p/s?schema=a")


def test_a_schema_is_one_of_a_record() -> None:
    for text in ("{", '"string"', '["null", "long"]', '{"type": "record"}'):
        with pytest.raises(ValueError, match=r"schema 's\.avsc'"):
            schema_text(text, "s.avsc")
    text = '{"type": "record", "name": "A", "fields": []}'
    assert schema_text(text, "s.avsc") == text


def test_a_message_has_the_number_of_its_id() -> None:
    assert number_of(SimpleNamespace(message_id="12345678901234567")) == 12345678901234567
    others = [number_of(SimpleNamespace(message_id=text)) for text in ("a-1", "a-2", "9" * 30, "²")]
    assert len(set(others)) == 4
    assert all(0 <= number < 1 << 63 for number in others)


def test_what_is_published_arrives_and_what_is_acknowledged_is_gone(topic: Topic, messages: Messages) -> None:
    topic.publish(b"%d" % number for number in range(100))
    found = receive(messages, 100)
    assert sorted(int(message.data) for message in found) == list(range(100))
    assert len({number_of(message) for message in found}) == 100
    for message in found:
        message.ack()
    assert messages.take(10) == []


def test_what_is_given_back_is_delivered_again_as_the_same_message(topic: Topic, messages: Messages) -> None:
    topic.publish([b"once more"])
    (first,) = receive(messages, 1)
    first.nack()
    (again,) = receive(messages, 1)
    assert (again.data, number_of(again)) == (first.data, number_of(first))
    again.ack()


def test_a_subscription_that_is_not_there_says_so(new_topic: Callable[[], Topic]) -> None:
    new_topic()
    receiving = Messages(Subscription.parse(f"pubsub://{PROJECT}/nowhere?schema=s"))
    deadline = time.monotonic() + PATIENCE_S
    with pytest.raises(PubSubError, match=rf"pubsub://{PROJECT}/nowhere: .*nowhere"):
        while time.monotonic() < deadline:
            receiving.take(1)
            time.sleep(0.01)
