"""Appending runs, and the logs that a process keeps open for it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import pytest
from apache_beam.testing.test_pipeline import TestPipeline
from apache_beam.testing.util import assert_that, equal_to

from monobeam.logs.log import LockedError, open_log, records
from monobeam.transforms import resources
from monobeam.transforms.append import AppendLog, run_of

SCHEMA = {"type": "record", "name": "Number", "fields": [{"name": "n", "type": "long"}]}


@pytest.fixture
def uri(tmp_path: Path) -> Iterator[str]:
    yield f"file:{tmp_path}/numbers"
    resources.close_all()


def numbers(uri: str, partition: int) -> list[int]:
    return [record["n"] for record in records(open_log(uri).read(partition, 0, 1000))]


def test_runs_go_to_their_partitions_and_say_where_they_lie(uri: str) -> None:
    runs = [run_of(0, SCHEMA, {"n": 1}, {"n": 2}), run_of(1, SCHEMA, {"n": 3})]
    with TestPipeline(runner="FnApiRunner") as pipeline:
        appended = pipeline | beam.Create(runs) | AppendLog(uri, SCHEMA)
        assert_that(appended, equal_to([(0, 0, 2), (1, 0, 1)]))
    assert (numbers(uri, 0), numbers(uri, 1)) == ([1, 2], [3])


def test_a_record_that_does_not_fit_is_quoted() -> None:
    with pytest.raises(ValueError, match="'three'"):
        run_of(0, SCHEMA, {"n": "three"})


def test_one_appender_a_partition_until_all_are_closed(uri: str) -> None:
    schema = '{"type": "record", "name": "Number", "fields": [{"name": "n", "type": "long"}]}'
    offsets = [resources.append(uri, schema, 0, 1, run_of(0, SCHEMA, {"n": n})[2]) for n in range(3)]
    assert offsets == [0, 1, 2]
    with pytest.raises(LockedError):
        open_log(uri).appender(0, SCHEMA)
    resources.close_all()
    with open_log(uri).appender(0, SCHEMA) as appender:
        assert appender.append([{"n": 3}]) == 3


def test_a_partition_has_one_reader_of_its_own(uri: str) -> None:
    assert resources.reader(uri, 0) is resources.reader(uri, 0)
    assert resources.reader(uri, 0) is not resources.reader(uri, 1)
