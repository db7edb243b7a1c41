"""The parameter store: pull rows, push gradients, commit all of it with the positions it includes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from monobeam.native import Table
from monobeam.store import dense as dense_codec
from monobeam.store.backend import Backend, Changed, Commit, ShardCommit
from monobeam.store.bags import Bags, Floats, Keys, Mask, Offsets, pool, shard_of
from monobeam.store.changes import Change, values_of
from monobeam.store.manifest import Manifest
from monobeam.store.room import TableRoom
from monobeam.store.seen import SeenExamples
from monobeam.store.shard import Handles, Shard, known, lookup, update_counts
from monobeam.store.spec import StoreSpec, check_fingerprint
from monobeam.store.sync import SyncEvent, TableChange

ALL = 2**62  # buckets: more than there can be
_T = TypeVar("_T", np.bool_, np.int64)


@dataclass(frozen=True, eq=False)
class Pulled:
    """Pooled rows, float32[M, dim], and where their gradients go; until the next ``expire``."""

    table: str
    pooled: Floats
    parts: Sequence[tuple[Handles, Offsets]]


class Store:
    """All rows of a model in memory, as of the last commit of its backend and what was pushed since.

    Nothing is durable before ``commit`` returns. Every method takes ``lock``; hold it around a train step, so that
    a commit falls between steps. The results do not depend on the number of shards, bit for bit. Whatever makes rows or
    remembers examples raises TableFullError where the specification's ``memory_limit`` leaves no room.
    """

    def __init__(self, spec: StoreSpec, backend: Backend) -> None:
        self.spec = spec
        self.lock = threading.RLock()
        self._backend = backend
        self._tables = {table.name: table for table in spec.tables}
        self._manifest = Manifest(spec.fingerprint(), (0,) * spec.shards, {}, 0, 0)
        backend.own(range(spec.shards))
        try:
            room = TableRoom(spec.memory_limit, "store.memory_limit")
            self._shards = [Shard(spec, room) for _ in range(spec.shards)]
            self._seen = SeenExamples(spec.example_retention_us, room)
            self._recover()
        except BaseException:
            backend.close()
            raise
        self._dense = backend.dense()

    def pull(self, table: str, bags: Bags, now_s: int) -> Pulled:
        """Sum of the rows of every bag, in order; rows that are missing and admitted are made. ``now_s``: seconds."""
        with self.lock:
            if len(self._shards) == 1:
                (shard,) = self._shards
                handles = shard.find_or_insert(table, bags.keys, now_s)
                pooled = shard.tables[table].gather_pooled(handles, bags.offsets)
                return Pulled(table, pooled, [(handles, bags.offsets)])
            rows = np.empty((len(bags.keys), self._tables[table].dim), np.float32)
            parts = []
            for shard, places in zip(self._shards, self._places(bags.keys), strict=True):
                part = bags.at(places)
                handles = shard.find_or_insert(table, part.keys, now_s)
                rows[places] = shard.tables[table].gather(handles)
                parts.append((handles, part.offsets))
            return Pulled(table, pool(rows, bags.offsets), parts)

    def push(self, pulled: Pulled, gradients: Floats, learning_rate: float | None = None) -> None:
        """One optimizer step for every pulled row; ``gradients``: float32[M, dim], of the pooled rows."""
        if gradients.shape != pulled.pooled.shape:
            raise ValueError(f"gradients {gradients.shape} for pooled rows {pulled.pooled.shape}: must be alike")
        rate = self._tables[pulled.table].learning_rate if learning_rate is None else learning_rate
        with self.lock:
            for shard, (handles, offsets) in zip(self._shards, pulled.parts, strict=True):
                shard.tables[pulled.table].apply_pooled(handles, offsets, gradients, rate)

    def lookup(self, table: str, bags: Bags) -> Floats:
        """Sum of the rows of every bag, float32[M, dim], making and touching none; missing rows count as zeros."""
        with self.lock:
            tables = [shard.tables[table] for shard in self._shards]
            if len(tables) == 1:
                return np.asarray(tables[0].lookup_pooled(bags.keys, bags.offsets))
            rows = np.empty((len(bags.keys), self._tables[table].dim), np.float32)
            for native, places in zip(tables, self._places(bags.keys), strict=True):
                rows[places] = lookup(native, bags.keys[places])
            return pool(rows, bags.offsets)

    def known(self, table: str, keys: Keys) -> Mask:
        """Which ids, bool[N], have a row."""
        return self._each(table, keys, known, np.bool_)

    def update_counts(self, table: str, keys: Keys) -> npt.NDArray[np.int64]:
        """How often the row of each id was updated, int64[N]; 0 for ids without one."""
        return self._each(table, keys, update_counts, np.int64)

    def erase(self, table: str, keys: Keys) -> None:
        """Drop the rows of ids, as far as there are any."""
        with self.lock:
            for shard, places in zip(self._shards, self._places(keys), strict=True):
                shard.tables[table].erase(keys[places])

    def unseen(self, example_keys: Keys, now_s: int) -> npt.NDArray[np.bool_]:
        """Which examples, bool[n], were not trained on before, repeats in the array included; marks them as seen."""
        with self.lock:
            return self._seen.mark(example_keys, now_s)

    def positions(self) -> dict[int, int]:
        """For every partition of the examples log the next offset to train on, as of the last commit."""
        return dict(self._manifest.positions)

    def meta(self) -> dict[str, Any]:
        """What the last commit said about itself."""
        return dict(self._manifest.meta)

    def dense(self) -> bytes | None:
        """The trainer's own bytes (dense weights, optimizer state) of the last commit that had some."""
        return self._dense

    def commit(
        self,
        positions: Mapping[int, int],
        dense: bytes | None,
        dense_values: Mapping[str, npt.NDArray[np.float32]] | None,
        arrivals: npt.NDArray[np.int64],
        now_us: int,
        meta: Mapping[str, Any] | None = None,
    ) -> list[SyncEvent]:
        """Make everything pushed and marked so far durable, at once, and say what changed: one event per shard.

        ``positions`` are added to the ones before; ``dense_values`` publishes weights for serving; ``arrivals`` ride in
        every event. When it raises, nothing was committed and nothing is lost: it can be called again.
        """
        with self.lock:
            changes = [shard.changes() for shard in self._shards]
            manifest = self._next_manifest(positions, dense_values is not None, now_us, meta or {})
            published = None if dense_values is None else dense_codec.encode(dense_values)
            self._backend.commit(
                Commit(
                    manifest=manifest,
                    shards=[
                        ShardCommit(epoch, tables, shard.live_bytes)
                        for epoch, tables, shard in zip(manifest.epochs, changes, self._shards, strict=True)
                    ],
                    seen=self._seen.new(),
                    forget_s=self._seen.forget_s,
                    dense=dense,
                    dense_values=published,
                )
            )
            before, self._manifest = self._manifest.epochs, manifest
            self._dense = self._dense if dense is None else dense
            self._seen.committed()
            for shard, epoch in zip(self._shards, manifest.epochs, strict=True):
                shard.committed(epoch)
        return [
            SyncEvent(
                model=self.spec.model,
                shard=number,
                epoch=manifest.epochs[number],
                previous_epoch=before[number],
                time_us=now_us,
                tables={
                    name: self._synced(name, change) for name, change in tables.items() if self._tables[name].synced
                },
                dense_version=manifest.dense_version,
                dense=published,
                arrivals=arrivals,
                dtype=self.spec.sync_dtype,
            )
            for number, tables in enumerate(changes)
        ]

    def changed(self, shard: int, since_epoch: int) -> Changed | None:
        """What commits changed in a shard since an epoch."""
        return self._backend.changed(shard, since_epoch)

    def expire(self, now_s: int, budget: int = ALL) -> int:
        """Drop rows and example keys that are too old, in up to ``budget`` buckets per table; the number of rows."""
        with self.lock:
            self._seen.expire(now_s, budget)
            return sum(shard.expire(now_s, budget) for shard in self._shards)

    def expire_keys(self, keys: Keys, now_s: int) -> None:
        """Drop the rows of these ids that are too old, in every table.

        Before ids are pulled, at times that never go back, this makes all that is pulled independent of when and how
        far ``expire`` sweeps. Handles of an earlier ``pull`` end.
        """
        with self.lock:
            for shard, places in zip(self._shards, self._places(keys), strict=True):
                shard.expire_keys(keys[places], now_s)

    @property
    def rows(self) -> int:
        """The number of rows in the tables that replicas have: without sightings of ids that have none."""
        return sum(len(shard.tables[name]) for shard in self._shards for name, of in self._tables.items() if of.synced)

    @property
    def memory_bytes(self) -> int:
        """Bytes held by rows and example keys."""
        tables = sum(int(table.memory_bytes) for shard in self._shards for table in shard.tables.values())
        return tables + self._seen.memory_bytes

    @property
    def epochs(self) -> tuple[int, ...]:
        """The last epoch of every shard; 0 before the first."""
        return self._manifest.epochs

    @property
    def dense_version(self) -> int:
        """How often dense weights were published."""
        return self._manifest.dense_version

    def close(self) -> None:
        """Give the backend back, without a commit."""
        with self.lock:
            self._backend.close()

    def _recover(self) -> None:
        stored = self._backend.manifest()
        if stored is None:
            return
        check_fingerprint(self._backend.uri, stored.fingerprint, self.spec.fingerprint())
        for number, shard in enumerate(self._shards):
            for block in self._backend.load(number).blocks:
                shard.restore(block)
            shard.epoch = stored.epochs[number]
        for seen in self._backend.seen():
            self._seen.restore(seen)
        self._manifest = stored

    def _each(
        self, table: str, keys: Keys, say: Callable[[Table, Keys], npt.NDArray[_T]], dtype: type[_T]
    ) -> npt.NDArray[_T]:
        """What the shards of ids say of them."""
        found = np.empty(len(keys), dtype)
        with self.lock:
            for shard, places in zip(self._shards, self._places(keys), strict=True):
                found[places] = say(shard.tables[table], keys[places])
        return found

    def _places(self, keys: Keys) -> list[npt.NDArray[np.intp]]:
        if len(self._shards) == 1:
            return [np.arange(len(keys))]
        owners = shard_of(keys, len(self._shards))
        return [np.flatnonzero(owners == number) for number in range(len(self._shards))]

    def _next_manifest(
        self, positions: Mapping[int, int], publishes: bool, now_us: int, meta: Mapping[str, Any]
    ) -> Manifest:
        return Manifest(
            fingerprint=self._manifest.fingerprint,
            epochs=tuple(max(epoch + 1, now_us // 1000) for epoch in self._manifest.epochs),
            positions={**self._manifest.positions, **{int(p): int(offset) for p, offset in positions.items()}},
            dense_version=self._manifest.dense_version + publishes,
            time_us=now_us,
            meta=meta,
        )

    def _synced(self, table: str, change: Change) -> TableChange:
        return TableChange(change.keys, values_of(change.rows, self._tables[table].dim), change.deletes)
