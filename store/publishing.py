"""Sync events of a commit, and shard servers that write them to the sync log themselves."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monobeam.logs.log import Appender, TooLargeError, open_log
from monobeam.store.spec import StoreSpec
from monobeam.store.sync import SYNC, SyncEvent, TableChange

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Announcement:
    """What the events of a commit say besides rows; ``dense``: newly published weights; ``arrivals``: int64, us."""

    time_us: int
    dense_version: int
    dense: bytes | None
    arrivals: npt.NDArray[np.int64]


def events(
    spec: StoreSpec,
    before: Mapping[int, int] | Sequence[int],
    epochs: Sequence[int],
    changes: Mapping[int, Mapping[str, TableChange]],
    said: Announcement,
) -> list[SyncEvent]:
    """The event of every shard in ``changes``; ``before``, ``epochs``: of shards by number."""
    return [
        SyncEvent(
            model=spec.model,
            shard=number,
            epoch=epochs[number],
            previous_epoch=before[number],
            time_us=said.time_us,
            tables=tables,
            dense_version=said.dense_version,
            dense=said.dense,
            arrivals=said.arrivals,
            dtype=spec.sync_dtype,
        )
        for number, tables in sorted(changes.items())
    ]


class SyncLog:
    """Appends the events of a server's shards to the sync log, each to the partition of its number.

    An event that cannot be written is passed over with a warning: replicas see the gap and read the store.
    """

    def __init__(self, uri: str) -> None:
        self._log = open_log(uri)
        self._appenders: dict[int, Appender] = {}

    def append(self, found: Sequence[SyncEvent]) -> None:
        """Append events of one commit."""
        for event in found:
            try:
                self._appender(event.shard).append([event.to_record()])
            except (OSError, TooLargeError) as error:
                _LOGGER.warning("sync event %d of shard %d is not written: %s", event.epoch, event.shard, error)

    def close(self) -> None:
        """Let others append."""
        for appender in self._appenders.values():
            appender.close()
        self._appenders.clear()

    def _appender(self, number: int) -> Appender:
        if number not in self._appenders:
            self._appenders[number] = self._log.appender(number, SYNC)
        return self._appenders[number]
