"""Append runs of Avro datums to a log, and what to do with a record that is too large for it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.metrics import Metrics

from monobeam.logs.log import Chunk, TooLargeError, encode_records, records
from monobeam.transforms import resources

TOO_LARGE = "too_large"
REFUSE, PASS_OVER, CUT = "refuse", "pass over", "cut"
_LOGGER = logging.getLogger(__name__)

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
    ``too_large``: what becomes of a record that is larger than the log takes. REFUSE: the job fails, and says so.
    PASS_OVER: it is left out and counted, where readers know how to do without. CUT: of a dead letter, the end of its
    payload is left out.
    """

    uri: str
    schema: Mapping[str, Any]
    too_large: str = REFUSE

    def expand(self, runs: beam.PCollection[Run]) -> beam.PCollection[tuple[int, int, int]]:
        """Wire the one step."""
        append = beam.ParDo(_Append(self.uri, json.dumps(self.schema), self.too_large))
        return runs | "Append" >> append.with_output_types(tuple[int, int, int])


class _Append(beam.DoFn):
    def __init__(self, uri: str, schema: str, too_large: str) -> None:
        self._uri = uri
        self._schema = schema
        self._too_large = too_large

    def process(self, run: Run) -> Iterator[tuple[int, int, int]]:
        partition, count, payload = run
        try:
            yield partition, self._append(partition, count, payload), count
        except TooLargeError:
            if self._too_large == REFUSE:
                raise
            for record in records([Chunk(partition, 0, count, self._schema, payload)]):
                yield from self._one(partition, record)

    def _append(self, partition: int, count: int, payload: bytes) -> int:
        return resources.append(self._uri, self._schema, partition, count, payload)

    def _one(self, partition: int, record: dict[str, Any]) -> Iterator[tuple[int, int, int]]:
        """Append one of the records of a run in which at least one is too large."""
        while True:
            try:
                yield partition, self._append(partition, 1, encode_records(self._schema, [record])), 1
                return
            except TooLargeError as error:
                if self._too_large == PASS_OVER or not record["payload"]:
                    Metrics.counter("monobeam.append", TOO_LARGE).inc()
                    _LOGGER.warning("passed over: %s", error)
                    return
                record = _cut(record)


def _cut(letter: Mapping[str, Any]) -> dict[str, Any]:
    """A dead letter with half of its payload."""
    whole, cut = letter["payload"], " (payload cut)"
    return {**letter, "payload": whole[: len(whole) // 2], "reason": letter["reason"].removesuffix(cut) + cut}
