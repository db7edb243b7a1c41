"""Appending runs, and the logs that a process keeps open for it."""

from __future__ import annotations

import json
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


def test_workers_take_turns_at_a_partition(uri: str) -> None:
    """As two TaskManagers do whose steps write to one log: here another appender is the second of them."""
    schema = json.dumps(SCHEMA)
    with open_log(uri).appender(0, SCHEMA, shared=True) as other:
        for n in range(0, 6, 2):
            assert resources.append(uri, schema, 0, 1, run_of(0, SCHEMA, {"n": n})[2]) == n
            assert other.append([{"n": n + 1}]) == n + 1
    assert numbers(uri, 0) == list(range(6))


def test_nobody_appends_where_a_writer_shares_with_nobody(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("monobeam.logs.file.TURN_S", 0.05)
    run = run_of(0, SCHEMA, {"n": 0})[2]
    resources.append(uri, json.dumps(SCHEMA), 0, 1, run)
    with open_log(uri).appender(0, SCHEMA), pytest.raises(LockedError):
        resources.append(uri, json.dumps(SCHEMA), 0, 1, run)
    assert resources.append(uri, json.dumps(SCHEMA), 0, 1, run) == 1


def test_a_partition_has_one_reader_of_its_own(uri: str) -> None:
    assert resources.reader(uri, 0) is resources.reader(uri, 0)
    assert resources.reader(uri, 0) is not resources.reader(uri, 1)
