"""Logs in Kafka topics, on a real broker."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import NewPartitions
from hypothesis import given
from hypothesis import strategies as st

from monobeam.logs.kafka.client import Client
from monobeam.logs.log import AwayError, LogError, TooLargeError, newest, open_log
from monobeam.serving.tail import Tail
from tests.kafka_cluster import PASSWORD, USER, Cluster, topic
from tests.logs.log_contract import SCHEMA, SPLITS, TIMES, LogContract, append_all, examples, numbers, read_all

Given = TypeVar("Given")


class TestKafkaLog(LogContract):
    IS_EXCLUSIVE = False
    FRAMES_PAYLOADS = False
    HAS_ALL_PARTITIONS = True
    NEAR = 100

    @pytest.fixture(autouse=True)
    def _on_a_broker(self, kafka: Cluster) -> None:
        self.cluster = kafka

    def make_uri(self, tmp_path_factory: pytest.TempPathFactory) -> str:
        return self.cluster.new()

    # Each example makes a topic and some producers.
    @examples(4)
    @given(**SPLITS)
    def test_any_split_reads_the_same(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, sizes: list[int]
    ) -> None:
        self.check_splits(tmp_path_factory, data, sizes)

    @examples(6)
    @given(**TIMES)
    def test_nothing_wanted_lies_before_the_offset_of_a_time(
        self, tmp_path_factory: pytest.TempPathFactory, gaps: list[list[tuple[int, int]]], wanted: int
    ) -> None:
        self.check_times(tmp_path_factory, gaps, wanted)


def until_there(question: Callable[[], Given]) -> Given:
    """What a reader that tries again gets to hear; fails if it never is anything."""
    deadline = time.monotonic() + 30
    while True:
        try:
            if answer := question():
                return answer
        except AwayError:
            pass
        assert time.monotonic() < deadline


def test_what_transactions_leave_behind_is_passed_over(kafka: Cluster) -> None:
    """Offsets: 0 ours, 1 and 2 committed, 3 its marker, 4 aborted, 5 its marker, 6 ours, 7 open."""
    uri = kafka.new()
    append_all(open_log(uri), 0, SCHEMA, [numbers(1)])
    schema = {"avro.schema": json.dumps(SCHEMA)}
    users = kafka.producer(**{"transactional.id": topic(uri)})
    users.init_transactions()
    for value, end in ((b"\x04\x00", users.commit_transaction), (b"\x06\x00", users.abort_transaction)):
        users.begin_transaction()
        for _ in range(2 if value == b"\x04\x00" else 1):
            users.produce(topic(uri), value, partition=0, headers=schema)
        users.flush()
        end()
    log = open_log(uri)
    assert until_there(lambda: log.end(0) == 6)  # the broker writes markers when it has the time
    assert [record["n"] for record in read_all(log, 0, has_gaps=True)] == [1, 2, 2]
    for offset in (3, 4, 5):
        assert [(chunk.count, chunk.end) for chunk in log.read(0, offset, 10)] == [(0, 6)]
    last = newest(log, 0)
    assert last is not None
    assert last.end == 3
    tail = Tail(log)
    assert [record["n"] for _ in range(2) for record in tail.new()] == [1, 2, 2]
    append_all(log, 0, SCHEMA, [numbers(4)])
    users.begin_transaction()
    users.produce(topic(uri), b"\x0a\x00", partition=0, headers=schema)
    users.flush()
    assert (log.end(0), log.read(0, 7, 10)) == (7, [])
    assert [record["n"] for record in tail.new()] == [4]
    assert list(tail.new()) == []
    users.abort_transaction()


def test_records_that_are_kept_no_longer(kafka: Cluster) -> None:
    uri = kafka.new()
    log = open_log(uri)
    append_all(log, 0, SCHEMA, [numbers(*range(10))])
    gone = TopicPartition(topic(uri), 0, 4)
    kafka.admin.delete_records([gone])[gone].result(10)
    assert (log.start(0), log.end(0), log.offset_for_time(0, 0, 0)) == (4, 10, 4)
    assert read_all(log, 0, 4) == numbers(*range(4, 10))
    with pytest.raises(LogError, match="offset 3 is no longer kept: the first is 4"):
        log.read(0, 3, 10)


def test_a_partition_that_is_added_is_read_by_who_waits_for_it(kafka: Cluster) -> None:
    uri = kafka.new()
    log = open_log(uri)
    append_all(log, 0, SCHEMA, [numbers(1)])
    assert (log.read(1, 0, 10), log.end(1)) == ([], 0)
    kafka.admin.create_partitions([NewPartitions(topic(uri), 2)])[topic(uri)].result(10)
    append_all(open_log(uri), 1, SCHEMA, [numbers(2)])
    assert read_all(log, 1) == numbers(2)
    assert log.partitions() == [0, 1]


def test_topics_can_be_used_as_soon_as_they_are_made(kafka: Cluster) -> None:
    """For a moment the broker does not know that it leads them."""
    for _ in range(12):
        with open_log(kafka.new(), partitions=3).appender(1, SCHEMA) as appender:
            assert appender.append([]) == 0


def test_a_topic_that_was_made_anew_begins_at_0(kafka: Cluster) -> None:
    uri = kafka.new()
    log = open_log(uri)
    append_all(log, 0, SCHEMA, [numbers(1, 2)])
    tail = Tail(log)
    assert len(list(tail.new())) == 2
    kafka.admin.delete_topics([topic(uri)])[topic(uri)].result(10)
    append_all(open_log(uri), 0, SCHEMA, [numbers(3)])
    assert list(tail.new()) == []  # it was further: from now on
    append_all(open_log(uri), 0, SCHEMA, [numbers(4)])
    assert until_there(lambda: list(tail.new())) == numbers(4)


def test_a_message_that_is_too_large_is_refused_with_its_size_and_the_limit(kafka: Cluster) -> None:
    log = open_log(kafka.new())
    with log.appender(0, SCHEMA) as appender:
        for size in (1000, 8_000_000):
            appender.append([{"n": 1, "text": "x" * size}])
        with pytest.raises(TooLargeError, match=r"partition 0: a message of 6710\d{4} bytes.*takes 67108864"):
            appender.append([*numbers(1), {"n": 1, "text": "x" * (64 << 20)}])
        assert appender.append(numbers(2)) == 2
    (first, second, third) = read_all(log, 0)
    assert (len(first["text"]), len(second["text"]), third) == (1000, 8_000_000, numbers(2)[0])


def test_readers_and_appenders_wait_while_the_broker_is_away(kafka: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    log = open_log(kafka.new())
    with log.appender(0, SCHEMA) as appender:
        appender.append(numbers(1))
        assert read_all(log, 0) == numbers(1)
        monkeypatch.setattr(Client, "PATIENCE_S", 0.5)
        kafka.broker.kill()
        try:
            late = threading.Thread(target=appender.append, args=[numbers(2, 3)])
            late.start()
            for question in (lambda: log.read(0, 1, 10), lambda: log.end(0), log.partitions):
                with pytest.raises(AwayError, match=log.uri.partition("?")[0]):
                    question()
            assert late.is_alive()
        finally:
            kafka.broker.start()
        late.join(60)
        assert appender.end == 3
    monkeypatch.undo()
    assert read_all(log, 0) == numbers(1, 2, 3)


def test_tls_by_options_of_the_address(kafka: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = kafka.new("security.protocol=SSL", kafka.tls)
    log = open_log(f"{uri}&ssl.ca.location={kafka.certificate}")
    append_all(log, 0, SCHEMA, [numbers(1)])
    assert read_all(log, 0) == numbers(1)
    monkeypatch.setattr(Client, "PATIENCE_S", 3.0)
    with pytest.raises(AwayError, match="certificate verify failed"):
        open_log(uri).end(0)


def test_a_password_comes_from_a_file_and_is_never_said(
    kafka: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "client.properties"
    uri = kafka.new(f"config={file}", kafka.sasl)
    text = f"# a comment\nsecurity.protocol=SASL_PLAINTEXT\nsasl.mechanism = PLAIN\nsasl.username={USER}\n"
    file.write_text(f"{text}sasl.password={PASSWORD}\n")
    log = open_log(uri)
    append_all(log, 0, SCHEMA, [numbers(1)])
    assert read_all(log, 0) == numbers(1)
    monkeypatch.setattr(Client, "PATIENCE_S", 3.0)
    file.write_text(f"{text}sasl.password=not-{PASSWORD}\n")
    with pytest.raises(OSError, match="uthentication failed") as refused:
        open_log(uri).end(0)
    assert PASSWORD not in str(refused.value)
