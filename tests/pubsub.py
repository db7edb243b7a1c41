"""Topics of Pub/Sub, in whatever PUBSUB_EMULATOR_HOST names."""

from __future__ import annotations

from collections.abc import Iterable

PROJECT = "proj-ect"


class Topic:
    """A new topic with one subscription of the same name."""

    def __init__(self, name: str, ack_deadline_s: int = 10) -> None:
        from google.cloud import pubsub_v1

        self.name = name
        self._publisher = pubsub_v1.PublisherClient()
        self._subscriber = pubsub_v1.SubscriberClient()
        self._path = self._publisher.topic_path(PROJECT, name)
        self._subscription = self._subscriber.subscription_path(PROJECT, name)
        self._publisher.create_topic(name=self._path)
        self._subscriber.create_subscription(
            name=self._subscription, topic=self._path, ack_deadline_seconds=ack_deadline_s
        )

    def publish(self, payloads: Iterable[bytes]) -> None:
        """Every payload as a message; they are there on return."""
        for sent in [self._publisher.publish(self._path, payload) for payload in payloads]:
            sent.result()

    def left(self) -> int:
        """How many messages are not acknowledged and with nobody; at most a thousand are looked at, and then held."""
        pulled = self._subscriber.pull(subscription=self._subscription, max_messages=1000, return_immediately=True)
        return len(pulled.received_messages)
