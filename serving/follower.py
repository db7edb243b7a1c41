"""Keeps a replica current: loads the store, then tails the sync log, from one thread that outlives every failure."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from monobeam.logs.log import Log
from monobeam.serving.freshness import Freshness
from monobeam.serving.periodic import Periodic
from monobeam.serving.replica import Replica, SyncError
from monobeam.serving.tail import Tail
from monobeam.store.backend import Backend
from monobeam.store.sync import SyncEvent

_LOGGER = logging.getLogger(__name__)
POLL_EVERY_S = 0.02
LOOK_AT_STORE_EVERY_US = 1_000_000


class Follower:
    """Call ``start`` to let it run, or ``step`` to move it by hand.

    Where the sync log is not complete (a trainer died after a commit and before its event), the store is found ahead
    with no event in sight for two looks in a row, and is caught up with. A store that does not fit into memory at the
    start is ``fatal``; what no longer fits later is tried again, and the last state that did is served meanwhile.
    """

    def __init__(
        self,
        replica: Replica,
        open_backend: Callable[[], Backend],
        sync_log: Log,
        freshness: Freshness,
        now_us: Callable[[], int],
    ) -> None:
        self._replica = replica
        self._open_backend = open_backend
        self._log = sync_log
        self._freshness = freshness
        self._now_us = now_us
        self._backend: Backend | None = None
        self._tail: Tail | None = None
        self._looked_us = 0
        self._ahead_at: Mapping[int, int] = {}
        self.fatal: str | None = None  # why there will never be a first state to answer from
        self.thread = Periodic("follower", self.step, POLL_EVERY_S, max_pause_s=1.0)

    def start(self) -> None:
        """Load if the store can be read now, then go on in a thread."""
        self.thread.start()

    def stop(self) -> None:
        """Stop the thread and close the store."""
        self.thread.stop()
        if self._backend is not None:
            self._backend.close()

    def step(self) -> bool:
        """Whatever is to be done now: load, apply events, look at the store; True where more may wait."""
        try:
            applied = self._step()
        except Exception as error:
            self._replica.error = f"{type(error).__name__}: {error}"
            if isinstance(error, MemoryError) and not self._replica.loaded:
                self.fatal = str(error)
            raise
        self._replica.error = None
        return applied

    def _step(self) -> bool:
        if self._tail is None:
            # First the end of the log, then the load: events between the two come again and are skipped, none is
            # missed.
            ends = Tail.ends(self._log)
            self._replica.load(self._store())
            self._tail = Tail(self._log, ends)
        read = 0
        try:
            for record in self._tail.new():
                self._apply(record)
                read += 1
        finally:
            self._look_at_store(self._now_us())  # which is what remains where the log cannot be read
        return read > 0

    def _apply(self, record: Mapping[str, Any]) -> None:
        try:
            event = SyncEvent.from_record(record)
        except (KeyError, TypeError, ValueError) as error:
            # What it held is missing now, which the next event shows as a gap.
            _LOGGER.warning("sync event passed over: %s", error)
            return
        if self._replica.apply(event, self._store_or_none()):
            self._freshness.applied(event.arrivals)

    def _look_at_store(self, now_us: int) -> None:
        if 0 <= now_us - self._looked_us < LOOK_AT_STORE_EVERY_US:  # below 0 where the clock was put back
            return
        self._looked_us = now_us
        self._replica.follow_shards(self._store())
        ahead = self._replica.ahead(self._store())
        epochs = {index: self._replica.shards[index].epoch for index in ahead}
        for index, epoch in epochs.items():
            if self._ahead_at.get(index) == epoch and index < len(self._replica.shards):
                _LOGGER.warning("shard %d: the store is %d ms ahead and no event came; reading it", index, ahead[index])
                self._replica.catch_up(index, self._store())
        self._ahead_at = epochs

    def _store(self) -> Backend:
        if self._backend is None:
            self._backend = self._open_backend()
        return self._backend

    def _store_or_none(self) -> Backend | None:
        try:
            return self._store()
        except (OSError, ValueError) as error:
            _LOGGER.debug("store: %s", error)
            return None


__all__ = ["Follower", "SyncError"]
