"""What every kind of log promises. A kind's own test module subclasses LogContract and says how to make a log."""

from __future__ import annotations

import json
from typing import Any

import fastavro
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from monobeam.logs import schemas
from monobeam.logs.log import Log, LogError, clip, encode_records, open_log, parsed, records
from monobeam.logs.seek import end_for_time

SCHEMA = {
    "type": "record",
    "name": "Number",
    "fields": [{"name": "n", "type": "long"}, {"name": "text", "type": "string"}],
}
OTHER = {"type": "record", "name": "Other", "fields": [{"name": "n", "type": "int"}]}
TIMED = schemas.impressions({})

SPLITS: dict[str, Any] = {"data": st.data(), "sizes": st.lists(st.integers(0, 9), max_size=8)}
_GAPS = st.lists(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 50)), max_size=6), max_size=12)
TIMES: dict[str, Any] = {"gaps": _GAPS, "wanted": st.integers(0, 1500)}


def examples(count: int) -> settings:
    """How many examples Hypothesis makes."""
    return settings(max_examples=count, deadline=None, suppress_health_check=[HealthCheck.differing_executors])


def numbers(*values: int) -> list[dict[str, Any]]:
    return [{"n": value, "text": "x" * (value % 5)} for value in values]


def read_all(
    log: Log, partition: int, offset: int = 0, max_records: int = 1000, has_gaps: bool = False
) -> list[dict[str, Any]]:
    found = []
    while chunks := log.read(partition, offset, max_records):
        for chunk in chunks:
            assert chunk.partition == partition
            assert chunk.offset == offset or (has_gaps and chunk.offset > offset)
            offset = chunk.end
        found += records(chunks)
    assert offset == log.end(partition)
    return found


def append_all(log: Log, partition: int, schema: dict[str, Any], batches: list[list[dict[str, Any]]]) -> None:
    with log.appender(partition, schema) as appender:
        for batch in batches:
            appender.append(batch)


class LogContract:
    """Needs a method ``make_uri(tmp_path_factory)`` giving the address of a log that is not there yet.

    Kinds differ in four things. IS_EXCLUSIVE: a partition has one appender at a time. FRAMES_PAYLOADS: a payload is
    kept as it is, whatever it holds. HAS_ALL_PARTITIONS: there is none without those of lower numbers. NEAR: by how
    many records the offset of a time may be too early.
    """

    IS_EXCLUSIVE = True
    FRAMES_PAYLOADS = True
    HAS_ALL_PARTITIONS = False
    NEAR = 10

    def make_uri(self, tmp_path_factory: pytest.TempPathFactory) -> str:
        raise NotImplementedError

    @pytest.fixture
    def log(self, tmp_path_factory: pytest.TempPathFactory) -> Log:
        return open_log(self.make_uri(tmp_path_factory))

    def test_a_log_that_is_not_there_is_empty(self, log: Log) -> None:
        assert log.partitions() == []
        assert log.start(0) == log.end(0) == 0
        assert log.read(0, 0, 10) == []

    def test_a_writer_says_how_many_partitions_there_are(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        log = open_log(self.make_uri(tmp_path_factory), partitions=3)
        assert log.partitions() == [0, 1, 2]
        with pytest.raises(LogError, match="partition 3"):
            log.appender(3, SCHEMA)

    def test_records_are_counted_however_many_writes_each_takes(
        self, log: Log, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where fastavro has no compiled writer, the one in Python writes field by field."""
        monkeypatch.setattr(fastavro, "schemaless_writer", fastavro._write_py.schemaless_writer)
        with log.appender(0, SCHEMA) as appender:
            assert appender.append(numbers(1, 2)) == 0
            assert appender.append(numbers(3)) == appender.end - 1 == 2
        assert read_all(log, 0) == numbers(1, 2, 3)

    def test_appended_records_are_read_from_their_offsets(self, log: Log) -> None:
        with log.appender(2, SCHEMA) as appender:
            assert appender.append(numbers(0, 1, 2)) == 0
            assert appender.append([]) == 3
            assert appender.append(numbers(3)) == 3
        assert log.partitions() == ([0, 1, 2] if self.HAS_ALL_PARTITIONS else [2])
        assert (log.start(2), log.end(2)) == (0, 4)
        assert read_all(log, 2) == numbers(0, 1, 2, 3)
        assert read_all(log, 2, 1) == numbers(1, 2, 3)
        assert log.read(2, 4, 10) == []

    def test_the_uri_opens_the_same_log(self, log: Log) -> None:
        append_all(log, 0, SCHEMA, [numbers(1)])
        assert read_all(open_log(log.uri), 0) == numbers(1)

    def test_an_open_reader_notices_records_and_partitions(self, log: Log) -> None:
        reader = open_log(log.uri)
        assert reader.partitions() == []
        assert reader.read(0, 0, 10) == []
        with log.appender(0, SCHEMA) as appender:
            for number in range(5):
                appender.append(numbers(number))
                assert records(reader.read(0, number, 10)) == numbers(number)
                assert reader.end(0) == number + 1
            append_all(log, 1, SCHEMA, [numbers(7)])
            assert reader.partitions() == [0, 1]
            assert read_all(reader, 1) == numbers(7)

    def test_offsets_that_are_not_there_are_refused(self, log: Log) -> None:
        append_all(log, 0, SCHEMA, [numbers(1, 2)])
        with pytest.raises(LogError, match="offset 3 is beyond the end, which is 2"):
            log.read(0, 3, 10)
        with pytest.raises(LogError, match="offset -1"):
            log.read(0, -1, 10)

    def test_a_partition_has_one_appender_at_a_time(self, log: Log) -> None:
        if not self.IS_EXCLUSIVE:
            pytest.skip("nobody is locked out, see the next test")
        with log.appender(0, SCHEMA) as first:
            with pytest.raises(OSError, match="appending to partition 0"):
                open_log(log.uri).appender(0, SCHEMA)
            with log.appender(1, SCHEMA):
                first.append(numbers(1))
        with log.appender(0, SCHEMA) as second:
            assert second.append(numbers(2)) == 1
        assert read_all(log, 0) == numbers(1, 2)

    def test_several_appenders_follow_one_another(self, log: Log) -> None:
        if self.IS_EXCLUSIVE:
            pytest.skip("there is one at a time, see the test before")
        with log.appender(0, SCHEMA) as first, open_log(log.uri).appender(0, SCHEMA) as second:
            assert first.append(numbers(1, 2)) == 0
            assert second.append(numbers(3)) == 2
            assert first.append(numbers(4)) == 3
            assert first.end == 4
        assert read_all(log, 0) == numbers(1, 2, 3, 4)

    def test_a_closed_appender_appends_no_more(self, log: Log) -> None:
        with log.appender(0, SCHEMA) as appender:
            appender.append(numbers(1))
        with pytest.raises(LogError, match="closed"):
            appender.append(numbers(2))
        assert read_all(log, 0) == numbers(1)

    def test_records_that_do_not_fit_are_all_refused(self, log: Log) -> None:
        with log.appender(0, SCHEMA) as appender:
            with pytest.raises(ValueError, match=r"'many'.*does not fit"):
                appender.append([*numbers(1), {"n": "many", "text": ""}])
            assert appender.append(numbers(2)) == 0
        assert read_all(log, 0) == numbers(2)

    def test_the_schema_may_change(self, log: Log) -> None:
        append_all(log, 0, SCHEMA, [numbers(1)])
        append_all(log, 0, OTHER, [[{"n": 2}], [{"n": 3}]])
        append_all(log, 0, SCHEMA, [numbers(4)])
        assert read_all(log, 0) == [*numbers(1), {"n": 2}, {"n": 3}, *numbers(4)]
        chunks = log.read(0, 0, 10)
        assert [parsed(chunk.schema)["name"] for chunk in chunks] == ["Number", "Other", "Number"]

    def test_garbage_keeps_its_offsets_to_itself(self, log: Log) -> None:
        if not self.FRAMES_PAYLOADS:
            pytest.skip("garbage cannot be cut into records, see the next test but one")
        with log.appender(0, SCHEMA) as appender:
            appender.append(numbers(1, 2))
            assert appender.append_payload(3, b"\xff" * 7) == 2
            appender.append(numbers(3))
        assert log.end(0) == 6
        (chunk,) = log.read(0, 0, 10)
        parts = [part for part, _ in chunk.split()]
        assert [(part.offset, part.count) for part in parts] == [(0, 2), (2, 3), (5, 1)]
        assert parts[1].payload == b"\xff" * 7
        assert records([parts[0], parts[2]]) == numbers(1, 2, 3)
        with pytest.raises(ValueError, match=r"offset 2 and on: f{14}.*undecodable"):
            records([chunk])
        assert [part.offset for part, _ in log.read(0, 3, 10)[0].split()] == [3, 5]

    def test_a_read_from_beyond_garbage_starts_with_the_garbage(self, log: Log) -> None:
        if not self.FRAMES_PAYLOADS:
            pytest.skip("garbage cannot be cut into records, see the next test")
        good = encode_records(json.dumps(SCHEMA), numbers(1))
        with log.appender(0, SCHEMA) as appender:
            appender.append_payload(4, good + b"\xff\xff")
        (chunk,) = log.read(0, 2, 10)
        assert (chunk.offset, chunk.count, chunk.payload) == (2, 2, b"\xff\xff")
        (chunk,) = log.read(0, 1, 10)
        assert (chunk.offset, chunk.count, chunk.payload) == (1, 3, b"\xff\xff")

    def test_a_payload_that_cannot_be_cut_into_records_is_refused(self, log: Log) -> None:
        if self.FRAMES_PAYLOADS:
            pytest.skip("a payload is kept as it is, see the two tests before")
        good = encode_records(json.dumps(SCHEMA), numbers(1))
        with log.appender(0, SCHEMA) as appender:
            with pytest.raises(ValueError, match=r"f{14}.*: is no datum"):
                appender.append_payload(3, good + b"\xff" * 7)
            with pytest.raises(ValueError, match=f"{3 * len(good)} bytes: 2 datums end after {2 * len(good)}"):
                appender.append_payload(2, good * 3)
            assert appender.append_payload(2, good * 2) == 0
        assert read_all(log, 0) == numbers(1, 1)

    def test_a_single_payload_is_not_looked_at(self, log: Log) -> None:
        with log.appender(0, SCHEMA) as appender:
            appender.append(numbers(1))
            assert appender.append_payload(1, b"\xff" * 7) == 1
            appender.append(numbers(2))
        (chunk,) = log.read(0, 0, 10)
        before, garbage, after = (part for part, _ in chunk.split())
        assert (garbage.offset, garbage.count, garbage.payload) == (1, 1, b"\xff" * 7)
        assert records([before, after]) == numbers(1, 2)

    def test_two_reads_of_an_offset_are_equal(self, log: Log) -> None:
        append_all(log, 0, SCHEMA, [numbers(*range(10)), numbers(*range(10, 13))])
        assert log.read(0, 4, 2) == log.read(0, 4, 2) == open_log(log.uri).read(0, 4, 2)

    @examples(40)
    @given(**SPLITS)
    def test_any_split_reads_the_same(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, sizes: list[int]
    ) -> None:
        self.check_splits(tmp_path_factory, data, sizes)

    def check_splits(self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, sizes: list[int]) -> None:
        log = open_log(self.make_uri(tmp_path_factory))
        expected: list[dict[str, Any]] = []
        for size in sizes:
            batch = numbers(*range(len(expected), len(expected) + size))
            if data.draw(st.booleans(), "reopen"):
                append_all(log, 0, SCHEMA, [batch])
            else:
                append_all(log, 0, OTHER, [])
                append_all(log, 0, SCHEMA, [batch[: size // 2], batch[size // 2 :]])
            expected += batch
            offset = data.draw(st.integers(0, len(expected)), "offset")
            max_records = data.draw(st.integers(1, 30), "max_records")
            assert read_all(log, 0, offset, max_records) == expected[offset:]
        for chunk in log.read(0, 0, 1000) if expected else []:
            start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(expected))] * 2), "clip"))
            assert records([clip(chunk, start, stop)]) == expected[max(start, chunk.offset) : min(stop, chunk.end)]

    @examples(40)
    @given(**TIMES)
    def test_nothing_wanted_lies_before_the_offset_of_a_time(
        self, tmp_path_factory: pytest.TempPathFactory, gaps: list[list[tuple[int, int]]], wanted: int
    ) -> None:
        self.check_times(tmp_path_factory, gaps, wanted)

    def check_times(
        self, tmp_path_factory: pytest.TempPathFactory, gaps: list[list[tuple[int, int]]], wanted: int
    ) -> None:
        log, now, times, batches = open_log(self.make_uri(tmp_path_factory)), 1000, [], []
        for batch in gaps:
            for gap, delay in batch:
                now += gap
                times.append(now - delay)
            batches.append([{"impression_id": "i", "time": time} for time in times[len(times) - len(batch) :]])
        append_all(log, 0, TIMED, batches)
        offset = log.offset_for_time(0, wanted, disorder_us=50)
        assert 0 <= offset <= len(times)
        assert all(time < wanted for time in times[:offset])
        end = end_for_time(log, 0, wanted, disorder_us=50)
        assert 0 <= end <= len(times)
        assert all(time >= wanted for time in times[end:])
        assert end_for_time(log, 0, wanted, disorder_us=50, start=end) == end

    def test_the_offset_of_a_late_time_is_late(self, log: Log) -> None:
        batches = [[{"impression_id": "i", "time": 1000 + 10 * batch + n} for n in range(10)] for batch in range(100)]
        append_all(log, 0, TIMED, batches)
        assert 500 - self.NEAR <= log.offset_for_time(0, 1500, disorder_us=0) <= 500
        assert 400 - self.NEAR <= log.offset_for_time(0, 1500, disorder_us=100) <= 400
        assert log.offset_for_time(0, 0, disorder_us=0) == 0
        assert log.offset_for_time(1, 1500, disorder_us=0) == 0
        assert [end_for_time(log, 0, time, disorder_us=0) for time in (0, 1500, 5000)] == [0, 500, 1000]
        assert end_for_time(log, 0, 1500, disorder_us=100) == 600

    def test_payloads_are_the_datums_themselves(self, log: Log) -> None:
        append_all(log, 0, SCHEMA, [numbers(1), numbers(2)])
        (chunk,) = log.read(0, 0, 10)
        assert chunk.payload == encode_records(chunk.schema, numbers(1, 2))
