"""Reading and appending where the log is a topic: gaps, new partitions, records that are too large, brokers away."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from confluent_kafka.admin import NewPartitions

from monobeam.logs import block, schemas
from monobeam.logs.kafka.client import Client
from monobeam.logs.log import TooLargeError, encode_records, open_log, records
from monobeam.transforms import append, read, resources
from monobeam.transforms.append import CUT, PASS_OVER, REFUSE, run_of
from monobeam.transforms.read import Partition, Tail
from monobeam.transforms.spans import _ReadSpan, whole
from monobeam.transforms.tracker import RangesTracker
from tests.kafka_cluster import Cluster, topic

SHOWN = schemas.impressions({"user": "string"})
TAIL = Tail(disorder_us=0, idle_after_us=10**12, poll_us=1000)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    resources.close_all()


class Tracker(RangesTracker):
    """As the runner wraps it."""

    def defer_remainder(self, delay: object) -> None:
        pass


def impression(name: str) -> dict[str, Any]:
    return {"impression_id": name, "time": 10**15, "user": "u"}


def ids(outputs: list[Any]) -> list[str]:
    """Of the impressions in what a reader gave."""
    blocks = [block.decode(output.value[1]) for output in outputs if not hasattr(output, "tag")]
    return [name for found in blocks if block.kind(found) == "impressions" for name in found.column("_id").to_pylist()]


class Reader:
    """Bundles of one reader, each of which goes on where the one before it ended."""

    def __init__(self, reader: Any, *partitions: Partition) -> None:
        self._reader, self._partitions = reader, partitions
        self._left = reader.initial_restriction(partitions)

    def bundle(self) -> list[Any]:
        tracker, estimator = Tracker(self._left), ManualWatermarkEstimator(None)
        outputs = list(self._reader.process(self._partitions, tracker, estimator))
        _, self._left = tracker.try_split(0) or (None, self._left)
        tracker.check_done()
        return outputs


def test_a_bounded_read_ends_behind_the_marker_of_a_transaction(kafka: Cluster) -> None:
    uri = kafka.new()
    kafka.make(uri)
    users = kafka.producer(**{"transactional.id": topic(uri)})
    users.init_transactions()
    for name, end in (("a", users.commit_transaction), ("b", users.abort_transaction), ("c", users.commit_transaction)):
        users.begin_transaction()
        datum = encode_records(json.dumps(SHOWN), [impression(name)])
        users.produce(topic(uri), datum, partition=0, headers={"avro.schema": json.dumps(SHOWN)})
        users.flush()
        end()
    log = open_log(uri)
    while log.end(0) < 6:  # the broker writes markers when it has the time
        pass
    (span,) = whole([("impressions", uri, 1)], TAIL)
    assert ids(list(_ReadSpan(1).process(span))) == ["a", "c"]


def test_a_partition_that_is_added_to_a_running_job_is_read_if_it_was_expected(kafka: Cluster) -> None:
    uri = kafka.new()
    with open_log(uri).appender(0, SHOWN) as appender:
        appender.append([impression("a")])
    reader = Reader(read._TailPartitions(1, TAIL), *(Partition("impressions", uri, number) for number in range(2)))
    assert ids(reader.bundle()) == ["a"]
    kafka.admin.create_partitions([NewPartitions(topic(uri), 2)])[topic(uri)].result(30)
    with open_log(uri).appender(1, SHOWN) as appender:
        appender.append([impression("b")])
    assert ids(reader.bundle()) == ["b"]
    assert ids(reader.bundle()) == []


def small_topic(kafka: Cluster) -> str:
    """Takes messages of up to 4000 bytes."""
    uri = kafka.new()
    kafka.make(uri, config={"max.message.bytes": "4000"})
    return uri


def test_a_dead_letter_that_is_too_large_is_cut(kafka: Cluster) -> None:
    uri = small_topic(kafka)
    letter = {"log": "l", "partition": 0, "offset": 5, "count": 1, "reason": "no", "time": 1, "payload": bytes(20_000)}
    run = run_of(0, schemas.DEAD_LETTERS, {**letter, "payload": b"small"}, letter)
    done = list(append._Append(uri, json.dumps(schemas.DEAD_LETTERS), CUT).process(run))
    assert done == [(0, 0, 1), (0, 1, 1)]
    small, cut = records(open_log(uri).read(0, 0, 10))
    assert (small["payload"], small["reason"]) == (b"small", "no")
    assert (len(cut["payload"]), cut["reason"]) == (2500, "no (payload cut)")


def test_another_record_that_is_too_large_ends_the_job_or_is_passed_over(
    kafka: Cluster, caplog: pytest.LogCaptureFixture
) -> None:
    uri = small_topic(kafka)
    record = {"shard": 0, "tick": 1, "count": 1, "block": bytes(20_000)}
    run = run_of(0, schemas.EXAMPLES, record)
    with pytest.raises(TooLargeError, match=r"a message of 20\d{3} bytes.*takes 4000 \(max.message.bytes\)"):
        list(append._Append(uri, json.dumps(schemas.EXAMPLES), REFUSE).process(run))
    assert list(append._Append(uri, json.dumps(schemas.EXAMPLES), PASS_OVER).process(run)) == []
    assert "passed over" in caplog.text
    assert open_log(uri).end(0) == 0


def test_jobs_wait_for_a_broker_that_is_away(
    kafka: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    uri = kafka.new()
    with open_log(uri).appender(0, SHOWN) as appender:
        appender.append([impression("a")])
    reader = Reader(read._TailPartitions(1, TAIL), Partition("impressions", uri, 0))
    assert ids(reader.bundle()) == ["a"]
    monkeypatch.setattr(Client, "PATIENCE_S", 1.0)
    found: list[str] = []
    kafka.broker.kill()
    try:
        schema = json.dumps(SHOWN)
        payload = encode_records(schema, [impression("b")])
        waiting = [
            threading.Thread(target=lambda: found.extend(ids(reader.bundle()))),
            threading.Thread(target=resources.append, args=[uri, schema, 0, 1, payload]),
        ]
        for thread in waiting:
            thread.start()
        assert read._TailPartitions(1, TAIL).restriction_size(reader._partitions, reader._left) == 0
        assert all(thread.is_alive() for thread in waiting)
    finally:
        kafka.broker.start()
    for thread in waiting:
        thread.join(60)
    assert f"waiting for 1 s: {uri.partition('?')[0]}" in caplog.text
    assert found + ids(reader.bundle()) == ["b"]
