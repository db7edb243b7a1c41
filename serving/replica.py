"""The serving side's copy of a parameter store: loads it once, then applies sync events while lookups go on.

Who does what: one thread (the follower) loads and applies; any thread looks up. Nothing here blocks a lookup: the
native table takes writes in small slices, and dense weights are one immutable object that is swapped by reference.

The state is a function of the store's commits alone. An event holds values, not differences, so applying one twice
changes nothing; one that does not follow the replica's epoch shows a gap, and the replica reads what it missed from
the store.

Tables hold embeddings alone, in the format of ``[serving] rows``. All rows are rounded to it in one way, to the
nearest, so in the format of the sync events, the default, a row has the same bits whether it came with one or from
the store.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from monobeam.models.config import Config
from monobeam.models.deepfm import Model, build
from monobeam.native import Table
from monobeam.store import dense as dense_values
from monobeam.store.backend import Backend, BackendError
from monobeam.store.bags import Keys, shard_of
from monobeam.store.changes import values_of
from monobeam.store.manifest import Manifest
from monobeam.store.room import TableRoom
from monobeam.store.spec import TableSpec, check_model
from monobeam.store.sync import SyncEvent, TableChange

_LOGGER = logging.getLogger(__name__)


class SyncError(RuntimeError):
    """An event or a store that belongs to another model."""


@dataclass(frozen=True)
class Dense:
    """Dense weights in use, immutable once built. ``rate``: of negative sampling; version 0 is untrained."""

    module: Model
    version: int
    rate: float


@dataclass
class ShardReplica:
    """Where the copy of one shard stands, and what happened to it: counts of events, rows written, rows deleted."""

    index: int
    epoch: int = 0
    events: int = 0
    skipped: int = 0  # events that brought nothing new
    gaps: int = 0  # times that something was missing and was read from the store
    rows: int = 0
    deletes: int = 0


class Replica:
    """The copy of all shards of one model, as many as the store has: ``shards`` is rebuilt when that changes.

    TableFullError where ``[serving] memory_limit`` leaves no room for what is loaded or applied. What is there goes on,
    and no epoch advances; applied again, when there is room, the same load or event completes it.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self.row_format = config.serving.rows
        self.memory_limit = config.serving.memory_limit  # bytes; 0: none
        self._room = TableRoom(self.memory_limit, "serving.memory_limit")
        spec = config.store_spec()
        self._fingerprint = spec.fingerprint()
        self._dims = {table.name: table.dim for table in spec.tables if table.synced}
        self.tables: Mapping[str, Table] = {table.name: self._table(table) for table in spec.tables if table.synced}
        self.shards = tuple(ShardReplica(index) for index in range(spec.shards))
        self.dense = Dense(build(config).eval().requires_grad_(False), 0, config.join.negative_rate)
        self.loaded = False  # the store has been read once, even if it held no commit yet
        self.error: str | None = None  # why nothing new can be had at the moment
        self.lag_ms = 0  # by how much the store was ahead when it was last asked: epochs are milliseconds
        self._current_us: int | None = None  # time of the commit that this state is

    @property
    def epoch(self) -> int:
        """The epoch of the shard that is furthest behind."""
        return min(shard.epoch for shard in self.shards)

    @property
    def trained(self) -> bool:
        """Whether every shard holds a commit; before that, scores come from initial values."""
        return self.loaded and self.epoch > 0

    @property
    def rows(self) -> int:
        """Rows in all tables."""
        return sum(len(table) for table in self.tables.values())

    @property
    def memory_bytes(self) -> int:
        """Memory of all tables."""
        return sum(table.memory_bytes for table in self.tables.values())

    @property
    def bytes_per_row(self) -> float | None:
        """Memory of a row with its share of everything; None where there is none."""
        rows = self.rows
        return self.memory_bytes / rows if rows else None

    def staleness_ms(self, now_us: int) -> float | None:
        """Age of the newest commit in this state; None before the first."""
        return None if self._current_us is None else max(0.0, (now_us - self._current_us) / 1000)

    def load(self, backend: Backend) -> None:
        """Take over everything that the store's last commit holds; without a commit the model stays untrained.

        What was here before is answered from meanwhile. SpecError, naming what differs, where the store is of another
        model or configuration; BackendError where it is cut into other shards meanwhile: load again.
        """
        manifest = self._manifest(backend)
        shards = self.shards
        if manifest is not None and len(manifest.epochs) != len(shards):
            new = (ShardReplica(index) for index in range(len(shards), len(manifest.epochs)))
            shards = (*(replace(shard) for shard in shards[: len(manifest.epochs)]), *new)
        before = {name: table.keys() for name, table in self.tables.items()}
        for shard in shards:
            self._load_shard(shard, len(shards), _part(before, shard.index, len(shards)), backend)
        self.shards = shards
        self._load_dense(backend)
        self.loaded = True

    def follow_shards(self, backend: Backend) -> bool:
        """Load again where the store has been cut into another number of shards; whether it has."""
        manifest = self._manifest(backend)
        if manifest is None or len(manifest.epochs) == len(self.shards):
            return False
        _LOGGER.warning("the store has %d shards now, not %d: reading it", len(manifest.epochs), len(self.shards))
        self.load(backend)
        return True

    def apply(self, event: SyncEvent, backend: Backend | None) -> bool:
        """Apply one event; whether it brought something new.

        On a gap the store is read up to its last commit, which includes this event; without a store (None) that raises
        SyncError and leaves everything as it is, so that the event can be applied later.
        """
        self._check(event)
        if event.epoch <= self.epoch:
            self.shards[min(event.shard, len(self.shards) - 1)].skipped += 1
            return False
        if event.shard >= len(self.shards):
            self._more_shards(event, backend)
        shard = self.shards[event.shard]
        if event.epoch <= shard.epoch:
            shard.skipped += 1
            return False
        if event.previous_epoch != shard.epoch:
            _LOGGER.warning(
                "shard %d: gap: event %d follows %d, but the replica is at %d; reading the store",
                shard.index,
                event.epoch,
                event.previous_epoch,
                shard.epoch,
            )
            self.catch_up(shard.index, backend)
        else:
            self._change(shard, event.tables)
            shard.epoch = event.epoch
            self._commit_seen(event.time_us)
        self._apply_dense(event, backend)
        self.shards[event.shard].events += 1
        return True

    def catch_up(self, index: int, backend: Backend | None) -> None:
        """Read from the store what changed in a shard since its epoch here, or everything if its shards are others."""
        shard = self.shards[index]
        if backend is None:
            raise SyncError(
                f"shard {index}: epochs after {shard.epoch} are missing, and there is no store to read them from"
            )
        if self.follow_shards(backend):
            return
        changed = backend.changed(index, shard.epoch)
        if changed is None:
            raise SyncError(f"shard {index}: the store holds no commit, but the replica is at epoch {shard.epoch}")
        self._check_count(backend, changed.manifest, len(self.shards))
        if changed.complete:
            here = _part({name: table.keys() for name, table in self.tables.items()}, index, len(self.shards))
            self._drop_others(shard, here, {name: change.keys for name, change in changed.tables.items()})
        changes = {name: change for name, change in changed.tables.items() if name in self.tables}
        self._change(
            shard,
            {
                name: TableChange(change.keys, values_of(change.rows, self._dims[name]), change.deletes)
                for name, change in changes.items()
            },
        )
        shard.epoch = changed.epoch
        shard.gaps += 1
        self._commit_seen(changed.manifest.time_us)
        self._load_dense(backend)

    def ahead(self, backend: Backend) -> dict[int, int]:
        """By how much (epochs are milliseconds) the store is ahead, for every shard where it is."""
        manifest = self._manifest(backend)
        if manifest is None:
            return {}
        self._check_count(backend, manifest, len(self.shards))
        self._take_rate(manifest)
        pairs = zip(self.shards, manifest.epochs, strict=True)
        ahead = {shard.index: epoch - shard.epoch for shard, epoch in pairs if epoch > shard.epoch}
        self.lag_ms = max(ahead.values(), default=0)
        return ahead

    def _manifest(self, backend: Backend) -> Manifest | None:
        """The store's manifest, if the store is one that this replica can copy."""
        manifest = backend.manifest()
        if manifest is not None:
            check_model(backend.uri, manifest.fingerprint, self._fingerprint)
        return manifest

    def _load_shard(self, shard: ShardReplica, count: int, here: Mapping[str, Keys], backend: Backend) -> None:
        """Take over one of ``count`` shards, and drop what is ``here`` of it and not there."""
        loaded = backend.load(shard.index)
        have: dict[str, list[Keys]] = {}
        for block in loaded.blocks:
            if block.table in self.tables:
                self._write(block.table, block.keys, values_of(block.rows, self._dims[block.table]))
                have.setdefault(block.table, []).append(block.keys)
                shard.rows += len(block.keys)
        self._check_count(backend, loaded.manifest, count)  # rows are right in any shard; what is missing may not be
        self._drop_others(shard, here, {name: np.concatenate(keys) for name, keys in have.items()})
        if loaded.manifest is not None:
            shard.epoch = loaded.manifest.epochs[shard.index]
            self._commit_seen(loaded.manifest.time_us)

    def _check_count(self, backend: Backend, manifest: Manifest | None, count: int) -> None:
        """A store can be cut anew between two looks at it."""
        if manifest is not None and len(manifest.epochs) != count:
            raise BackendError(f"{backend.uri}: has {len(manifest.epochs)} shards now, not {count}")

    def _check(self, event: SyncEvent) -> None:
        if event.model != self._config.model.name:
            raise SyncError(f"event of model {event.model!r}: this is {self._config.model.name!r}")
        if event.shard < 0:
            raise SyncError(f"event of shard {event.shard}: shards are counted from 0")

    def _more_shards(self, event: SyncEvent, backend: Backend | None) -> None:
        """The event is of a shard that is not here: the store has more than this replica knows of."""
        if backend is None or not self.follow_shards(backend) or event.shard >= len(self.shards):
            raise SyncError(f"event of shard {event.shard}: this replica has shards 0 to {len(self.shards) - 1}")

    def _change(self, shard: ShardReplica, changes: Mapping[str, TableChange]) -> None:
        """Deletes first: they make room for the rest."""
        for name, change in changes.items():
            self._erase(shard, name, change.deletes)
        for name, change in changes.items():
            self._write(name, change.keys, change.values)
            shard.rows += len(change.keys)

    def _write(self, name: str, keys: Keys, values: npt.NDArray[np.float32]) -> None:
        if len(keys):
            with self._room.table(name):
                self.tables[name].import_values(np.ascontiguousarray(keys), np.ascontiguousarray(values, np.float32))

    def _drop_others(self, shard: ShardReplica, here: Mapping[str, Keys], there: Mapping[str, Keys]) -> None:
        """Of a shard, by table, these ids were here and those are all that the store has: the others are gone there."""
        for name, keys in here.items():
            self._erase(shard, name, np.setdiff1d(keys, there[name]) if name in there else keys)

    def _erase(self, shard: ShardReplica, name: str, keys: Keys) -> None:
        if len(keys):
            shard.deletes += self.tables[name].erase(np.ascontiguousarray(keys))
            self.tables[name].clear_touched()  # or it would remember all that it ever erased

    def _apply_dense(self, event: SyncEvent, backend: Backend | None) -> None:
        if event.dense_version <= self.dense.version:
            return
        if event.dense is not None:
            self._swap_dense(event.dense, event.dense_version)
        elif backend is not None:  # the event that brought them was missed
            self._load_dense(backend)

    def _load_dense(self, backend: Backend) -> None:
        stored, manifest = backend.dense_values(), backend.manifest()
        if stored is not None and stored.version > self.dense.version:
            self._swap_dense(stored.values, stored.version)
        if manifest is not None:
            self._take_rate(manifest)

    def _take_rate(self, manifest: Manifest) -> None:
        """The rate of the examples that were trained on last; until a commit says it, that of the configuration."""
        rate = float(manifest.meta.get("rate", self.dense.rate))
        if rate != self.dense.rate:
            self.dense = replace(self.dense, rate=rate)

    def _swap_dense(self, values: bytes, version: int) -> None:
        """Build the module aside, then swap: an answer sees the old weights or the new, never a mixture."""
        module = build(self._config).eval().requires_grad_(False)
        arrays = {name: torch.from_numpy(np.array(array)) for name, array in dense_values.decode(values).items()}
        try:
            module.load_state_dict(arrays)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise SyncError(
                f"dense weights {version} are of another model: {reason}; this server needs the trainer's description"
            ) from None
        self.dense = Dense(module, version, self.dense.rate)

    def _commit_seen(self, time_us: int) -> None:
        self._current_us = max(self._current_us or 0, time_us)

    def _table(self, spec: TableSpec) -> Table:
        """A table of embeddings alone: plain sgd keeps no state beside them."""
        with self._room.table(spec.name):
            return Table(
                spec.dim, "sgd", {}, spec.seed, spec.init_scale, row_format=self.row_format, room=self._room.shared
            )


def _part(keys: Mapping[str, Keys], shard: int, shards: int) -> Mapping[str, Keys]:
    """The ids of one shard, by table."""
    return {name: of[shard_of(of, shards) == shard] for name, of in keys.items()}
