"""Append runs of Avro datums to a log."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam

from monobeam.logs.log import encode_records
from monobeam.transforms import resources

Run = tuple[int, int, bytes]
"""(partition, number of records, their concatenated Avro datums)."""


def run_of(partition: int, schema: Mapping[str, Any], *records: Mapping[str, Any]) -> Run:
    """Encode records that go to one partition; ValueError quotes the record that does not fit the schema."""
    return partition, len(records), encode_records(json.dumps(schema), records)


@dataclass
class AppendLog(beam.PTransform[Any, Any]):
    """Append every run to its partition of the log at ``uri``.

    Input: ``Run``. Output: ``(partition, offset of the first record, number of records)``, emitted once the records
    survive the death of this process. At least once: a retried bundle appends its runs again.
    """

    uri: str
    schema: Mapping[str, Any]

    def expand(self, runs: beam.PCollection[Run]) -> beam.PCollection[tuple[int, int, int]]:
        """Wire the one step."""
        return runs | "Append" >> beam.ParDo(_Append(self.uri, json.dumps(self.schema))).with_output_types(
            tuple[int, int, int]
        )


class _Append(beam.DoFn):
    def __init__(self, uri: str, schema: str) -> None:
        self._uri = uri
        self._schema = schema

    def process(self, run: Run) -> Iterator[tuple[int, int, int]]:
        partition, count, payload = run
        yield partition, resources.append(self._uri, self._schema, partition, count, payload), count
