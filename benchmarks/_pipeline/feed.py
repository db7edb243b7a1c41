"""Appends traffic to two logs: as fast as it can up to a time, or at a rate for as long as it is asked to.

python -m benchmarks._pipeline.feed --impressions=LOG --actions=LOG --rate=25000 --seconds=60
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from confluent_kafka import Producer

from benchmarks._pipeline.run import PARTITIONS, SCHEMAS, WINDOW_US
from benchmarks._pipeline.traffic import CLICKED, Run, Traffic
from monobeam.logs.kafka.address import Address
from monobeam.logs.log import open_log

STEP_US, FILL_STEP_US = 20_000, 500_000
PRODUCER = {
    "linger.ms": 5,
    "batch.size": 1 << 18,
    "compression.type": "lz4",
    "queue.buffering.max.messages": 1_000_000,
    "queue.buffering.max.kbytes": 1 << 18,
}


class Target(Protocol):
    """Where the datums of one log go."""

    def append(self, partition: int, run: Run) -> None:
        """Take them; they need not be there yet."""

    def close(self) -> None:
        """When this returns they are."""


class Topic:
    """As whoever logs much appends to Kafka: a message a datum, many on their way."""

    def __init__(self, uri: str) -> None:
        address = Address.parse(uri)
        self._topic = address.topic
        self._producer = Producer({"bootstrap.servers": address.brokers, **PRODUCER})

    def append(self, partition: int, run: Run) -> None:
        """Give them to the producer, which sends them in batches."""
        for message in run.messages():
            while True:
                try:
                    self._producer.produce(self._topic, message, partition=partition)
                    break
                except BufferError:
                    self._producer.poll(0.01)
        self._producer.poll(0)

    def close(self) -> None:
        """Wait until the broker has everything."""
        if left := self._producer.flush(60):
            raise OSError(f"the broker did not take {left} records")


class Files:
    """A log in files."""

    def __init__(self, uri: str, schema: Mapping[str, Any]) -> None:
        self._appenders = [open_log(uri).appender(number, dict(schema)) for number in range(PARTITIONS)]

    def append(self, partition: int, run: Run) -> None:
        """They are durable when this returns."""
        if len(run.times):
            self._appenders[partition].append_payload(len(run.times), run.datums.tobytes())

    def close(self) -> None:
        """Close the files."""
        for appender in self._appenders:
            appender.close()


class Feed:
    """Traffic at ``rate`` events a second into logs by name."""

    def __init__(self, logs: Mapping[str, str], rate: float, seed: int = 1) -> None:
        self._targets: dict[str, Target] = {
            name: Topic(uri) if uri.startswith("kafka:") else Files(uri, SCHEMAS[name]) for name, uri in logs.items()
        }
        self._traffic = Traffic(seed, WINDOW_US)
        self._spacing_us = 1e6 * (1 + CLICKED) / rate
        self._clicks: list[Run] = []
        self.given = 0

    def step(self, start_us: int, stop_us: int) -> None:
        """Append what happens from one time to another; clicks of earlier impressions, too."""
        count = round((stop_us - start_us) / self._spacing_us)
        times = np.linspace(start_us, stop_us, count, endpoint=False).astype(np.int64)
        shown, clicked = self._traffic.draw(times)
        self._clicks.append(clicked)
        self._append("impressions", shown)
        self._append("actions", self._due(stop_us))

    def _due(self, stop_us: int) -> Run:
        times = np.concatenate([run.times for run in self._clicks])
        datums = np.concatenate([run.datums for run in self._clicks])
        order = np.argsort(times, kind="stable")
        due = int(np.searchsorted(times[order], stop_us))
        now, later = order[:due], order[due:]
        self._clicks = [Run(times[later], datums[later])]
        return Run(times[now], datums[now])

    def _append(self, name: str, run: Run) -> None:
        for number in range(PARTITIONS):
            part = Run(run.times[number::PARTITIONS], run.datums[number::PARTITIONS])
            self._targets[name].append(number, part)
        self.given += len(run.times)

    def close(self) -> None:
        """When this returns everything is in the logs."""
        for target in self._targets.values():
            target.close()


def fill(feed: Feed, seconds: float) -> None:
    """What would have happened in so many seconds up to now, at once."""
    stop_us = time.time_ns() // 1000
    start_us = stop_us - int(seconds * 1e6)
    for at in range(start_us, stop_us, FILL_STEP_US):
        feed.step(at, min(at + FILL_STEP_US, stop_us))
    feed.close()


def follow(feed: Feed, seconds: float) -> None:
    """What happens is appended when it happens."""
    start_us = time.time_ns() // 1000
    for number in range(int(seconds * 1e6) // STEP_US):
        at = start_us + number * STEP_US
        wait_s = (at + STEP_US) / 1e6 - time.time()
        if wait_s > 0:
            time.sleep(wait_s)
        feed.step(at, at + STEP_US)
    feed.close()


def main(argv: Sequence[str] | None = None) -> None:
    """Feed at a rate, in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks._pipeline.feed", description=__doc__)
    parser.add_argument("--impressions", required=True, metavar="LOG")
    parser.add_argument("--actions", required=True, metavar="LOG")
    parser.add_argument("--rate", type=float, required=True, help="events a second: impressions and clicks")
    parser.add_argument("--seconds", type=float, required=True)
    given = parser.parse_args(argv)
    follow(Feed({"impressions": given.impressions, "actions": given.actions}, given.rate), given.seconds)


if __name__ == "__main__":
    main()
