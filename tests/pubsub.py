"""Google's Pub/Sub emulator, for a session of tests, and topics in it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PROJECT = "proj-ect"
JAR = "platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar"


def emulator_jar() -> Path:
    """Where the Google Cloud SDK has the emulator; its absence skips the test, or fails it under CI."""
    gcloud = shutil.which("gcloud")
    homes = [Path(gcloud).resolve().parents[1]] if gcloud else []
    found = [jar for home in [*homes, Path("/usr/lib/google-cloud-sdk")] for jar in sorted(home.glob(JAR))]
    if not found or shutil.which("java") is None:
        message = "no Pub/Sub emulator here: install google-cloud-cli-pubsub-emulator and a Java runtime"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found[-1]


@contextmanager
def emulator() -> Iterator[str]:
    """HOST:PORT of an emulator that answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["java", "-Xmx256m", "-XX:+UseSerialGC", "-jar", str(emulator_jar()), "--host=127.0.0.1"]
    with subprocess.Popen(
        [*command, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while socket.socket().connect_ex(("127.0.0.1", port)):
                assert process.poll() is None, "the emulator ended"
                assert time.monotonic() < deadline, "the emulator does not answer"
                time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            process.kill()


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
