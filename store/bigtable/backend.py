"""The backend in Google Cloud Bigtable, of which only single rows are atomic.

A commit writes, in this order: into the row of every shard the intent to write with a stamp that no cell has; the ids
that it touches; the rows, as cells with that stamp; example keys and dense weights, in rows with the stamp in their
keys; and last, into the row of shard 0, what is published. Readers take of every row the newest cell that is not newer
than the stamp that is published for its shard. What is written and never published is void: it is deleted, its stamp is
never used again, and readers pass over it, should somebody who was paused write it once more.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from monobeam.store.backend import (
    BackendError,
    Block,
    Changed,
    Commit,
    DenseValues,
    Loaded,
    OwnedError,
    SeenKeys,
    ShardCommit,
    check_commit,
)
from monobeam.store.bags import Keys
from monobeam.store.bigtable import history
from monobeam.store.bigtable.client import Address, Client
from monobeam.store.bigtable.extras import Extras
from monobeam.store.bigtable.history import Delta
from monobeam.store.bigtable.ownership import Leases, StateRow, lease_of, shard_rows
from monobeam.store.bigtable.published import Intent, Published, Void, remembered
from monobeam.store.bigtable.rows import Moment, RawCell, raw_cells
from monobeam.store.bigtable.wire import STATE, prefixes_of_shard, set_rows, state_key
from monobeam.store.changes import Change, merge
from monobeam.store.manifest import Manifest

KEEP_EPOCHS = 256
PUBLISHED, INTENT = b"published", b"intent"
_TRIM_EPOCHS = 8
_STEP = 4096
_STREAMS = 4


class BigtableBackend:
    """A store in a table that ``create`` has made: ``bigtable://PROJECT/INSTANCE/TABLE``.

    ``keep_epochs``: how many commits of a shard replicas may miss and need not read everything; ``lease_s``: after how
    long without renewal others may take a shard (None: as the address says); ``wait_s``: how long ``own`` waits for an owner that is alive;
    ``patience_s``: how long what fails is tried again.
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
        self._whole = False

    def own(self, shards: Sequence[int] | None = None, address: str = "") -> None:
        """See Backend; a lease that its owner does not renew is waited for until it has expired."""
        self._address = address
        published = self._published()
        known = range(published.shards if published else 1)
        self._leases.take(known if shards is None else shards, address, self._wait_s)
        self._whole = shards is None or (published is not None and set(known) <= set(self._leases.rows))
        if self._whole:
            self.recover(list(self._leases.rows))

    def owners(self) -> Mapping[int, str]:
        """See SharedBackend; by this machine's clock."""
        leases = {shard: lease_of(cells) for shard, cells in shard_rows(self._client).items()}
        return {shard: lease["address"] for shard, lease in leases.items() if lease}

    def check_owned(self) -> None:
        """See SharedBackend."""
        if not self._leases.rows:
            raise OwnedError(f"{self.uri}: nothing is owned")
        for row in self._leases.rows.values():
            row.check()

    def manifest(self) -> Manifest | None:
        """See Backend."""
        published = self._published()
        return published.manifest if published else None

    def commit(self, commit: Commit) -> None:
        """See Backend."""
        self._owned(0)
        published = self._published()
        check_commit(self.uri, published.manifest if published else None, commit)
        if self._whole:
            self._leases.take(range(len(commit.shards)), self._address, self._wait_s)
        self.prepare(dict(enumerate(commit.shards)))
        self.publish(commit)

    def prepare(self, shards: Mapping[int, ShardCommit]) -> None:
        """See SharedBackend."""
        published = self._published()
        prepared = [(self._intend(number, shard, published), shard.tables) for number, shard in shards.items()]
        self._client.mutate(entry for delta, tables in prepared for entry in history.entries(delta, tables))
        self._client.mutate(entry for delta, tables in prepared for entry in _cells(delta, tables))

    def publish(self, commit: Commit) -> None:
        """See SharedBackend."""
        row, before = self._owned(0), self._published()
        check_commit(self.uri, before.manifest if before else None, commit)
        intents = self._intents(commit.manifest.epochs)
        void = {Void(stamp, *prefixes_of_shard(number, len(intents)))
                for number, intent in enumerate(intents) for stamp in intent.void}  # fmt: skip
        stamp = intents[0].stamp
        horizons = before.horizons if before else tuple(epoch - 1 for epoch in commit.manifest.epochs)
        after = Published(
            manifest=commit.manifest,
            stamps=tuple(intent.stamp for intent in intents),
            horizons=tuple(max(old, intent.horizon) for old, intent in zip(horizons, intents, strict=True)),
            void=remembered((*(before.void if before else ()), *void), stamp),
        )
        after = self._extras.write(commit, before, after)
        row.change({PUBLISHED: after.encode()})
        self._extras.sweep(before, after)

    def recover(self, shards: Sequence[int]) -> None:
        """See SharedBackend."""
        for number in shards:
            self._owned(number).change({})
        published = self._published()
        for number in shards:
            self._deltas[number] = []
            for delta in history.listed(self._client, [number]):
                if _is_published(delta, published):
                    self._deltas[number].append(delta)
                else:
                    history.undo(self._client, delta)
        if 0 in shards:
            self._extras.recover(published)

    def load(self, shard: int) -> Loaded:
        """See Backend; BackendError where commits have trimmed what is being read: it can be read again."""
        published = self._published()
        if published is None:
            return Loaded(None, iter(()))
        return Loaded(published.manifest, self._load(published, shard))

    def changed(self, shard: int, since_epoch: int) -> Changed | None:
        """See Backend."""
        while True:
            published = self._published()
            if published is None:
                return None
            epoch = published.manifest.epochs[shard]
            complete = not published.horizons[shard] <= since_epoch <= epoch
            tables = self._everything(published, shard) if complete else self._since(published, shard, since_epoch)
            if self._is_kept(shard, epoch if complete else since_epoch):
                return Changed(published.manifest, shard, complete, tables)

    def seen(self) -> Iterator[SeenKeys]:
        """See Backend."""
        published = self._published()
        return iter(()) if published is None else self._extras.seen(published)

    def dense(self) -> bytes | None:
        """See Backend."""
        return self._extras.dense(self._published)

    def dense_values(self) -> DenseValues | None:
        """See Backend."""
        return self._extras.values(self._published)

    def raw_cells(self) -> Iterator[RawCell]:
        """Every cell of every parameter, whatever its epoch, by prefix."""
        return raw_cells(self._client)

    def close(self) -> None:
        """See Backend."""
        self._leases.close()
        self._deltas.clear()
        self._whole = False

    def _owned(self, shard: int) -> StateRow:
        row = self._leases.rows.get(shard)
        if row is None:
            raise OwnedError(f"{self.uri}: commit by someone who does not own shard {shard}")
        row.check()
        return row

    def _published(self) -> Published | None:
        row = self._leases.rows.get(0)
        if row is not None:
            row.settle()
            data = row.cells.get(PUBLISHED)
            return Published.decode(data) if data else None
        filters = {"family_name_regex_filter": STATE, "column_qualifier_regex_filter": PUBLISHED}
        for cell in self._client.cells([state_key(0)], filters):
            return Published.decode(cell.value)
        return None

    def _intend(self, number: int, shard: ShardCommit, published: Published | None) -> Delta:
        """Record the intent to write the shard's commit, after what is left to do for earlier ones."""
        row = self._owned(number)
        deltas = self._tidied(number, published)
        stamp = published.stamps[number] if published else 0
        spare = [delta.epoch for delta in deltas[: max(0, len(deltas) - self._keep_epochs)]]
        horizon = spare[: 2 * _TRIM_EPOCHS][-1] if len(spare) >= _TRIM_EPOCHS else 0
        known = frozenset(void.stamp for void in published.void) if published else frozenset()
        before = Intent.decode(row.cells[INTENT]) if INTENT in row.cells else Intent(0, 0)
        intent = before.next(shard.epoch, stamp, known, horizon)
        row.change({INTENT: intent.encode()})
        delta = Delta(number, shard.epoch, intent.stamp)
        if any(shard.tables.values()):
            deltas.append(delta)
        return delta

    def _tidied(self, number: int, published: Published | None) -> list[Delta]:
        """The shard's deltas that are published and not to be trimmed, after undoing and trimming the others."""
        if number not in self._deltas:
            self._deltas[number] = history.listed(self._client, [number])
        horizon = published.horizons[number] if published else 0
        kept = []
        trimmed = []
        for delta in self._deltas[number]:
            if not _is_published(delta, published):
                history.undo(self._client, delta)
            elif delta.epoch <= horizon:
                trimmed.append(delta)
            else:
                kept.append(delta)
        history.trim(self._client, trimmed)
        self._deltas[number] = kept
        return kept

    def _intents(self, epochs: Sequence[int]) -> list[Intent]:
        """What all shards have prepared, which must be these epochs."""
        rows = {number: row.cells for number, row in self._leases.rows.items()}
        if not rows.keys() >= set(range(len(epochs))):
            rows = shard_rows(self._client)
        intents = []
        for number, epoch in enumerate(epochs):
            data = rows.get(number, {}).get(INTENT)
            intents.append(Intent.decode(data) if data else Intent(0, 0))
            if intents[-1].epoch != epoch:
                raise BackendError(f"{self.uri}: epoch {epoch} of shard {number} is not prepared, {intents[-1]} is")
        return intents

    def _load(self, published: Published, shard: int) -> Iterator[Block]:
        yield from Moment.of(published, shard).scan(self._client, _STREAMS)
        if not self._is_kept(shard, published.manifest.epochs[shard]):
            raise BackendError(f"{self.uri}: shard {shard} was read for so long that its epoch is gone: read it again")

    def _is_kept(self, shard: int, epoch: int) -> bool:
        """Whether what was read as of this epoch had been there to the end."""
        published = self._published()
        return published is not None and shard < published.shards and published.horizons[shard] <= epoch

    def _since(self, published: Published, shard: int, since: int) -> dict[str, Change]:
        touched: dict[str, list[Keys]] = {}
        for some in history.read(self._client, shard, since, published.manifest.epochs[shard]):
            if _is_published(some.delta, published):
                touched.setdefault(some.table, []).extend((some.written, some.deleted))
        moment = Moment.of(published, shard)
        return {table: moment.get(self._client, table, _union(ids)) for table, ids in sorted(touched.items())}

    def _everything(self, published: Published, shard: int) -> dict[str, Change]:
        by_table: dict[str, list[Change]] = {}
        for block in Moment.of(published, shard).scan(self._client, _STREAMS):
            by_table.setdefault(block.table, []).append(Change(block.keys, block.rows, block.keys[:0]))
        return {table: merge(changes) for table, changes in sorted(by_table.items())}


def _is_published(delta: Delta, published: Published | None) -> bool:
    if published is None or delta.shard >= published.shards:
        return False
    first, _ = prefixes_of_shard(delta.shard, published.shards)
    return delta.stamp <= published.stamps[delta.shard] and not published.is_void(delta.stamp, first)


def _cells(delta: Delta, tables: Mapping[str, Change]) -> Iterator[bytes]:
    """The mutations that write a commit's rows and deletes, made as they are sent."""
    for table, change in tables.items():
        for at in range(0, len(change.keys), _STEP):
            yield from set_rows(table, change.keys[at : at + _STEP], change.rows[at : at + _STEP], delta.stamp)
        for at in range(0, len(change.deletes), _STEP):
            gone = change.deletes[at : at + _STEP]
            yield from set_rows(table, gone, np.empty((len(gone), 0), np.uint8), delta.stamp)


def _union(ids: Sequence[Keys]) -> Keys:
    return np.unique(np.concatenate(ids))
