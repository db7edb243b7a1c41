"""The backend in Google Cloud Bigtable, of which only single rows are atomic.

A commit writes, in this order: into the row of every shard the intent to write with a stamp that no cell has; the ids
that it touches; the rows, as cells with that stamp; example keys and dense weights, in rows with the stamp in their
keys; and last, into the row of shard 0, what is published. Readers take of every row the newest cell that is not newer
than the stamp that is published for its shard. What is written and never published is void: it is deleted, its stamp is
never used again, and readers pass over it, should somebody who was paused write it once more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TypeVar

import numpy as np

from monobeam.store.backend import (
    BackendError,
    Changed,
    Commit,
    DenseValues,
    Loaded,
    OwnedError,
    SeenKeys,
    ShardCommit,
    check_commit,
)
from monobeam.store.bags import PREFIXES
from monobeam.store.bigtable import history, tables, upkeep
from monobeam.store.bigtable.client import Address, Client
from monobeam.store.bigtable.extras import Extras
from monobeam.store.bigtable.history import Delta
from monobeam.store.bigtable.ownership import Leases, StateRow, lease_of, shard_rows
from monobeam.store.bigtable.published import INTENT, PUBLISHED, Intent, Published, voids
from monobeam.store.bigtable.reading import Committed, GoneError, Held, is_published
from monobeam.store.bigtable.rows import RawCell, raw_cells
from monobeam.store.bigtable.wire import STATE, set_rows, state_key
from monobeam.store.changes import Change
from monobeam.store.manifest import Manifest

KEEP_EPOCHS = 256
_TRIM_EPOCHS = 8
_STEP = 4096
_T = TypeVar("_T")


class BigtableBackend:
    """A store in a table that ``create`` has made: ``bigtable://PROJECT/INSTANCE/TABLE``.

    ``keep_epochs``: how many commits of a shard replicas may miss and need not read everything; ``lease_s``: after how
    long without renewal others may take a shard (None: as the address says); ``wait_s``: how long ``own`` waits for an
    owner that is alive; ``patience_s``: how long what fails is tried again.
    """

    def __init__(
        self,
        uri: str,
        *,
        keep_epochs: int = KEEP_EPOCHS,
        lease_s: float | None = None,
        wait_s: float = 0.0,
        patience_s: float = 60.0,
    ) -> None:
        self.uri = uri
        self._keep_epochs = keep_epochs
        self._wait_s = wait_s
        address = Address.parse(uri)
        self._client = Client(address, patience_s=patience_s)
        self._leases = Leases(self._client, lease_s or address.lease_s)
        self._extras = Extras(self._client)
        self._deltas: dict[int, list[Delta]] = {}
        self._address = ""

    def own(self, shards: Sequence[int] | None = None, address: str = "") -> None:
        """See Backend; a lease that its owner does not renew is waited for until it has expired."""
        self._address = address
        self._leases.take(range(self._shards()) if shards is None else shards, address, self._wait_s)
        now = range(self._shards())  # what a resharding that was under way made it, until it lost its lease
        if shards is None:
            self._leases.take(now, address, self._wait_s)
            self._leases.give_back(range(now.stop, PREFIXES))
        if set(now) <= set(self._leases.rows):
            self.recover(now)

    def owners(self) -> Mapping[int, str]:
        """See SharedBackend; whoever is there and does not answer may be dead, as a lease has no clock of its own."""
        leases = {shard: lease_of(cells) for shard, cells in shard_rows(self._client).items()}
        return {shard: lease["address"] for shard, lease in leases.items() if lease}

    def check_owned(self) -> None:
        """See SharedBackend."""
        if not self._leases.rows:
            raise OwnedError(f"{self.uri}: nothing is owned")
        for row in list(self._leases.rows.values()):
            row.check()

    def manifest(self) -> Manifest | None:
        """See Backend."""
        return self._committed().manifest()

    def commit(self, commit: Commit) -> None:
        """See Backend."""
        self._owned(0)
        published = self._published()
        check_commit(self.uri, published.manifest if published else None, commit)
        self._leases.take(range(len(commit.shards)), self._address, self._wait_s)
        self.prepare(dict(enumerate(commit.shards)))
        self.publish(commit)

    def prepare(self, shards: Mapping[int, ShardCommit]) -> None:
        """See SharedBackend."""
        published = self._published()
        prepared = [(self._intend(number, shard, published), shard.tables) for number, shard in shards.items()]
        self._client.mutate(entry for delta, tables in prepared for entry in history.entries(delta, tables))
        for number in shards:
            self._owned(number)  # who was paused meanwhile leaves less to pass over
        self._client.mutate(entry for delta, tables in prepared for entry in _cells(delta, tables))

    def publish(self, commit: Commit) -> None:
        """See SharedBackend."""
        self._owned(0)
        before = self._published()
        check_commit(self.uri, before.manifest if before else None, commit)
        intents = self._intents(len(commit.shards))
        if tuple(intent.epoch for intent in intents) != commit.manifest.epochs:
            raise BackendError(f"{self.uri}: {intents} are prepared, not epochs {commit.manifest.epochs}")
        horizons = before.horizons if before else tuple(epoch - 1 for epoch in commit.manifest.epochs)
        void = (*(before.void if before else ()), *voids(intent.void for intent in intents))
        after = Published(
            manifest=commit.manifest,
            stamps=tuple(intent.stamp for intent in intents),
            horizons=tuple(max(old, intent.horizon) for old, intent in zip(horizons, intents, strict=True)),
            void=void,
            layouts=before.layouts if before else (len(intents),),
        )
        after, written = self._extras.write(commit, before, after)
        self._publish(after)
        self._extras.written(written)

    def recover(self, shards: Sequence[int]) -> None:
        """See SharedBackend."""
        begun = {number: _intent(self._owned(number).settle()).stamp for number in shards}
        published = self._published()
        for number in shards:
            self._deltas.pop(number, None)
            self._tidied(number, published, begun[number])
        if 0 in shards:
            self._extras.recover(published, begun[0])
            if published is None:
                self._forget_first_attempts()
            else:
                before = history.listed_before(self._client, _layout(published))
                self._tidy(before, published, 2**63, max(published.stamps))

    def load(self, shard: int) -> Loaded:
        """See Backend; BackendError where commits have trimmed what is being read: it can be read again."""
        return self._committed().load(shard)

    def changed(self, shard: int, since_epoch: int) -> Changed | None:
        """See Backend."""
        return self._as_of_now(lambda committed: committed.changed(shard, since_epoch))

    def seen(self) -> Iterator[SeenKeys]:
        """See Backend."""
        return self._committed().seen()

    def dense(self) -> bytes | None:
        """See Backend."""
        return self._as_of_now(Committed.dense)

    def dense_values(self) -> DenseValues | None:
        """See Backend."""
        return self._as_of_now(Committed.dense_values)

    def close(self) -> None:
        """See Backend."""
        try:
            self._leases.close()
        finally:
            self._deltas.clear()
            self._client.close()

    @contextmanager
    def last_commit(self) -> Iterator[Committed]:
        """The last commit, while others go on committing, as long as they keep history."""
        yield self._as_of_now(lambda now: Held(self._client, now.published, self._published))

    def reshard(self, shards: int, progress: Callable[[float], None] = lambda _: None) -> None:
        """Cut the store anew: prefixes are in row keys, so this is another manifest, and no row moves."""
        if not 1 <= shards <= PREFIXES:
            raise ValueError(f"shards = {shards}: must be 1..{PREFIXES}")
        published = self._whole()
        if shards != published.shards:
            self._leases.take(range(shards), self._address, self._wait_s)
            after = published.resharded(self._intents(published.shards), shards)
            self._publish(after)
        self._leases.give_back(range(shards, PREFIXES))
        progress(0.5)
        self.recover(range(shards))
        progress(1.0)

    def compact(self, progress: Callable[[float], None] = lambda _: None) -> None:
        """Delete all that is superseded or void; replicas that are behind will have to read everything."""
        published = self._whole().without_history()
        self._publish(published)
        self.recover(range(published.shards))
        upkeep.compact(self._client, published, progress)
        progress(1.0)

    def faults(self) -> Iterator[str]:
        """What is wrong with stored values."""
        return upkeep.faults(self._client)

    def raw_cells(self) -> Iterator[RawCell]:
        """Every cell of every parameter, whatever its epoch, by prefix."""
        return raw_cells(self._client)

    def stored_bytes(self) -> int:
        """Bytes of the table, as far as Bigtable says."""
        return self._client.stored_bytes()

    def snapshot_uri(self, epoch: int) -> str:
        """The address of a table beside this one."""
        return self._client.address.beside(f"{self._client.address.table}-snapshot-{epoch}").uri

    def snapshot_uris(self) -> dict[int, str]:
        """The snapshots that there are, by epoch."""
        start = f"{self._client.address.table}-snapshot-"
        names = [name.removeprefix(start) for name in tables.tables(self.uri) if name.startswith(start)]
        return {epoch: self.snapshot_uri(epoch) for epoch in sorted(int(name) for name in names if name.isdecimal())}

    def destroy(self) -> None:
        """Drop the table, and close."""
        self.check_owned()
        self.close()
        tables.drop(self.uri)

    def _shards(self) -> int:
        published = self._published()
        return published.shards if published else 1

    def _whole(self) -> Published:
        """What is published, for the owner of all of it."""
        published = self._published()
        if published is None:
            raise BackendError(f"{self.uri}: holds no commit yet")
        for number in range(published.shards):
            self._owned(number)
        return published

    def _owned(self, shard: int) -> StateRow:
        row = self._leases.rows.get(shard)
        if row is None:
            raise OwnedError(f"{self.uri}: shard {shard} is not owned here, as it must be to change the store")
        row.check()
        return row

    def _publish(self, after: Published) -> None:
        upkeep.forget_void(self._client, after)
        void = tuple(sorted(set(after.void) - after.old_void))
        self._owned(0).change({PUBLISHED: replace(after, void=void).encode()})

    def _published(self) -> Published | None:
        row = self._leases.rows.get(0)
        if row is not None and row.in_force:
            with suppress(OwnedError):
                data = row.settle().get(PUBLISHED)
                return Published.decode(data) if data else None
        filters = {
            "family_name_regex_filter": STATE,
            "column_qualifier_regex_filter": PUBLISHED,
            "cells_per_column_limit_filter": 1,
        }
        for cell in self._client.cells([state_key(0)], filters):
            return Published.decode(cell.value)
        return None

    def _committed(self) -> Committed:
        return Committed(self._client, self._published(), self._published)

    def _as_of_now(self, read: Callable[[Committed], _T]) -> _T:
        """What is read of the last commit; of a newer one, where commits overtook the reading."""
        while True:
            committed = self._committed()
            try:
                return read(committed)
            except GoneError:
                if self._published() == committed.published:
                    raise

    def _intend(self, number: int, shard: ShardCommit, published: Published | None) -> Delta:
        """Record the intent to write the shard's commit, after what is left to do for earlier ones."""
        row = self._owned(number)
        before = _intent(row.settle())
        deltas = self._tidied(number, published, before.stamp)
        spare = [delta.epoch for delta in deltas[: max(0, len(deltas) - self._keep_epochs)]]
        horizon = spare[: 2 * _TRIM_EPOCHS][-1] if len(spare) >= _TRIM_EPOCHS else 0
        intent = before.next(shard.epoch, published.stamps[number] if published else 0, horizon)
        row.change({INTENT: intent.encode()})
        delta = Delta(_layout(published), number, shard.epoch, intent.stamp)
        if any(shard.tables.values()):
            deltas.append(delta)
        return delta

    def _tidied(self, number: int, published: Published | None, begun: int) -> list[Delta]:
        """The shard's deltas that are published and not to be trimmed, after undoing and trimming the others.

        ``begun``: the stamp of its last intent. What has a later one is of another owner, who may have published it by
        now: this one was paused, and is about to learn that it lost its lease.
        """
        if number not in self._deltas:
            self._deltas[number] = history.listed(self._client, _layout(published), number)
        horizon = published.horizons[number] if published else 0
        self._deltas[number] = self._tidy(self._deltas[number], published, horizon, begun)
        return self._deltas[number]

    def _tidy(self, deltas: list[Delta], published: Published | None, horizon: int, begun: int) -> list[Delta]:
        void = {delta for delta in deltas if not is_published(delta, published)}
        valid = [delta for delta in deltas if delta not in void]
        history.undo(self._client, (delta for delta in void if delta.stamp <= begun))
        history.trim(self._client, (delta for delta in valid if delta.epoch <= horizon))
        return [delta for delta in valid if delta.epoch > horizon]

    def _forget_first_attempts(self) -> None:
        """Undo what was prepared for a first commit, of whatever number of shards, before this owner renews its lease:
        what comes after may be of others.
        """
        begun = {number: _intent(cells).stamp for number, cells in shard_rows(self._client).items()}
        self._owned(0).renew()
        deltas = history.listed_before(self._client, 1)
        history.forget(self._client, [delta for delta in deltas if delta.stamp <= begun.get(delta.shard, 0)])

    def _intents(self, shards: int) -> list[Intent]:
        """What all shards mean to write, or have written."""
        rows = {number: row.cells for number, row in self._leases.rows.items()}
        if not rows.keys() >= set(range(shards)):
            rows = shard_rows(self._client)
        return [_intent(rows.get(number, {})) for number in range(shards)]


def _cells(delta: Delta, tables: Mapping[str, Change]) -> Iterator[bytes]:
    """The mutations that write a commit's rows and deletes, made as they are sent."""
    for table, change in tables.items():
        for at in range(0, len(change.keys), _STEP):
            yield from set_rows(table, change.keys[at : at + _STEP], change.rows[at : at + _STEP], delta.stamp)
        for at in range(0, len(change.deletes), _STEP):
            gone = change.deletes[at : at + _STEP]
            yield from set_rows(table, gone, np.empty((len(gone), 0), np.uint8), delta.stamp)


def _layout(published: Published | None) -> int:
    return len(published.layouts) - 1 if published else 0


def _intent(cells: Mapping[bytes, bytes]) -> Intent:
    return Intent.decode(cells[INTENT]) if INTENT in cells else Intent(0, 0)
