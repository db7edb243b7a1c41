"""A reproducible history of commits, and dicts that say what a store must hold after each.

Run as a program, with what to do and an LMDB directory, it is another process that uses the store.
"""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from monobeam.store.backend import Backend, BackendError, Changed, Commit, SeenKeys, ShardCommit
from monobeam.store.bags import Keys, shard_of
from monobeam.store.changes import Change
from monobeam.store.lmdb import LmdbBackend
from monobeam.store.manifest import Manifest

ROW_BYTES = {"items": 24, "users": 40}
SHARDS = 2
IDS = 150
FINGERPRINT: dict[str, Any] = {"model": "m", "shards": SHARDS, "tables": {name: {"dim": 2} for name in ROW_BYTES}}
Rows = dict[str, dict[int, bytes]]


def ids_of(shard: int) -> Keys:
    """The first ids that belong to a shard, uint64[IDS]."""
    ids = np.arange(4 * IDS * SHARDS, dtype=np.uint64)
    return ids[shard_of(ids, SHARDS) == shard][:IDS]


def change(rng: np.random.Generator, shard: int, row_bytes: int, writes: int = 60, deletes: int = 8) -> Change:
    """Random rows and deletes among few ids of a shard, so that commits overlap."""
    keys = rng.choice(ids_of(shard), writes, replace=False)
    gone = np.setdiff1d(rng.choice(ids_of(shard), deletes), keys)
    return Change(keys, rng.integers(0, 256, (writes, row_bytes)).astype(np.uint8), gone)


def manifest(number: int, **fields: Any) -> Manifest:
    epochs = tuple(1000 * number + shard for shard in range(SHARDS))
    values = {"fingerprint": FINGERPRINT, "epochs": epochs, "positions": {0: number, 7: 2 * number}}
    return Manifest(**({**values, "dense_version": number // 10, "time_us": number} | fields))


def commit(number: int) -> Commit:
    """The commit with this number (from 1); every fourth changes no row, every tenth publishes dense weights."""
    rng = np.random.default_rng(number)
    shards = []
    for shard, epoch in enumerate(manifest(number).epochs):
        tables = {name: change(rng, shard, size) for name, size in ROW_BYTES.items()} if number % 4 else {}
        shards.append(ShardCommit(epoch, tables))
    keys = rng.integers(0, 2**63, 50).astype(np.uint64)
    return Commit(
        manifest=manifest(number, meta={"number": number}),
        shards=shards,
        seen=SeenKeys(keys, np.full(50, 1000 + number, np.uint32)),
        forget_s=0,
        dense=b"dense %d" % number,
        dense_values=b"values %d" % number if number % 10 == 0 else None,
    )


def apply(rows: Rows, tables: Any) -> None:
    """Change dicts as a change of tables says."""
    for name, table in tables.items():
        of_table = rows.setdefault(name, {})
        of_table.update(zip(table.keys.tolist(), (row.tobytes() for row in table.rows), strict=True))
        for key in table.deletes.tolist():
            of_table.pop(key, None)


@dataclass
class Twin:
    """What a store must hold after ``number`` commits."""

    number: int = 0
    shards: list[Rows] = field(default_factory=lambda: [{} for _ in range(SHARDS)])
    seen: dict[int, int] = field(default_factory=dict)

    def advance(self, number: int) -> Twin:
        while self.number < number:
            self.number += 1
            step = commit(self.number)
            for rows, shard in zip(self.shards, step.shards, strict=True):
                apply(rows, shard.tables)
            self.seen.update(zip(step.seen.keys.tolist(), step.seen.seconds.tolist(), strict=True))
        return self

    def rows(self, shard: int) -> Rows:
        return {name: dict(table) for name, table in self.shards[shard].items() if table}


def rows_of(backend: Backend, shard: int) -> Rows:
    """All rows of a shard; an id that comes twice is an error."""
    rows: Rows = {}
    for block in backend.load(shard).blocks:
        table = rows.setdefault(block.table, {})
        for key, row in zip(block.keys.tolist(), block.rows, strict=True):
            assert key not in table
            table[key] = row.tobytes()
    return {name: table for name, table in rows.items() if table}


def after(before: Rows, changed: Changed) -> Rows:
    """What a replica holds that had ``before`` and applied the difference."""
    rows = {} if changed.complete else {name: dict(table) for name, table in before.items()}
    apply(rows, changed.tables)
    return {name: table for name, table in rows.items() if table}


def seen_of(backend: Backend) -> dict[int, int]:
    return {
        key: second
        for block in backend.seen()
        for key, second in zip(block.keys.tolist(), block.seconds.tolist(), strict=True)
    }


def check(backend: Backend, twin: Twin) -> None:
    """The store is exactly what the twin says."""
    stored = backend.manifest()
    assert stored == commit(twin.number).manifest
    for shard in range(SHARDS):
        assert rows_of(backend, shard) == twin.rows(shard)
    assert seen_of(backend) == twin.seen
    assert backend.dense() == b"dense %d" % twin.number


def write(directory: str) -> None:
    """Commit for ever, going on where the store stands."""
    backend = LmdbBackend(directory, fold_bytes=1 << 14, keep_epochs=8, map_bytes=1 << 16)
    backend.own()
    stored = backend.manifest()
    number = 0 if stored is None else stored.positions[0]
    while True:
        number += 1
        backend.commit(commit(number))


def read(directory: str) -> None:
    """For every number on standard input, check that the store holds that commit."""
    backend, twin = LmdbBackend(directory, map_bytes=1 << 16), Twin()
    for line in sys.stdin:
        check(backend, twin.advance(int(line)))
        print("ok", flush=True)


def fill(directory: str) -> None:
    """Commit until the disk is full (here: until the file may grow no more), say so, get room, and commit once more."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    backend = LmdbBackend(directory)
    backend.own()
    number = 0
    try:
        while True:
            backend.commit(commit(number + 1))
            number += 1
    except BackendError as error:
        print(number, error, flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    backend.commit(commit(number + 1))


if __name__ == "__main__":
    {"write": write, "read": read, "fill": fill}[sys.argv[1]](sys.argv[2])
