"""Reads a log as it grows: all of its partitions, each in order."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

from monobeam.logs.log import Chunk, Log, LogError, records

_LOGGER = logging.getLogger(__name__)
MAX_RECORDS = 256


class Tail:
    """Follows a log from the given offsets (partitions that are not named: from their beginning).

    Where what comes next is not there any more (the log was deleted and begun anew, or the reader was away for longer
    than records are kept), it goes on with what comes from now on.
    """

    def __init__(self, log: Log, offsets: Mapping[int, int] | None = None) -> None:
        self._log = log
        self._offsets = dict(offsets or {})

    @staticmethod
    def ends(log: Log) -> dict[int, int]:
        """The offset after the last record of every partition: where to start for what comes from now on."""
        return {partition: log.end(partition) for partition in log.partitions()}

    def new(self) -> Iterator[Mapping[str, Any]]:
        """Some new records. One counts as read when the next is asked for: where its reader fails, it comes again.

        What cannot be decoded is passed over, up to the next record that was written on its own.
        """
        for partition in self._log.partitions():
            for chunk in self._read(partition, self._offsets.get(partition, 0)):
                for part, _ in chunk.split():
                    yield from self._of(part)
                self._offsets[partition] = chunk.end

    def _read(self, partition: int, offset: int) -> list[Chunk]:
        try:
            return self._log.read(partition, offset, MAX_RECORDS)
        except LogError as error:
            end = self._log.end(partition)
            if end == offset:
                raise
            _LOGGER.warning("%s; going on at offset %d", error, end)
            self._offsets[partition] = end
            return []

    def _of(self, part: Chunk) -> Iterator[Mapping[str, Any]]:
        try:
            decoded = records([part])
        except ValueError as error:
            _LOGGER.warning("%s: %d records passed over: %s", self._log.uri, part.count, error)
            decoded = []
        for place, record in enumerate(decoded):
            yield record
            self._offsets[part.partition] = part.offset + place + 1
        self._offsets[part.partition] = part.end
