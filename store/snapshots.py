"""Copies of a store's last commit, each a store of its own: kept, listed, restored and dropped."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from monobeam.store.backend import FORGET_ALL, BackendError, Commit, SeenKeys, ShardCommit
from monobeam.store.bags import shard_of
from monobeam.store.changes import NO_KEYS, Change, merge
from monobeam.store.lmdb import LmdbBackend
from monobeam.store.lmdb_copy import copy
from monobeam.store.manifest import Manifest
from monobeam.store.spec import check_fingerprint
from monobeam.store.storage import Committed, Progress, Storage, create, open_storage, silent

Tables = Mapping[str, Change]


@dataclass(frozen=True)
class Summary:
    """A store in figures; ``nbytes``: of ids and rows."""

    uri: str
    epoch: int
    time_us: int
    shards: int
    rows: int
    nbytes: int


def summary(storage: Storage) -> Summary | None:
    """The store as of its last commit; None before the first."""
    with storage.last_commit() as last:
        return None if last.manifest() is None else summed(storage.uri, last)


def summed(uri: str, last: Committed) -> Summary:
    """A commit in figures."""
    manifest, rows, nbytes = _manifest(uri, last), 0, 0
    for shard in range(len(manifest.epochs)):
        for block in last.load(shard).blocks:
            rows, nbytes = rows + len(block.keys), nbytes + block.keys.nbytes + block.rows.nbytes
    return Summary(uri, max(manifest.epochs), manifest.time_us, len(manifest.epochs), rows, nbytes)


def kept(storage: Storage) -> Iterator[Summary]:
    """The snapshots beside a store that were finished, the oldest first."""
    for uri in storage.snapshot_uris().values():
        snapshot = open_storage(uri)
        try:
            found = summary(snapshot)
            if found is not None:
                yield found
        finally:
            snapshot.close()


def keep(storage: Storage, uri: str | None = None, progress: Progress = silent) -> str:
    """Copy the last commit to an empty place (None: where the store's snapshots are), while others go on committing.

    The address of the copy. One that is there already, of the same commit, is left as it is.
    """
    if isinstance(storage, LmdbBackend) and (uri is None or uri.startswith("lmdb:")):
        return copy(storage, None if uri is None else Path(uri.removeprefix("lmdb:")))
    with storage.last_commit() as last:
        manifest = _manifest(storage.uri, last)
        target = uri or storage.snapshot_uri(max(manifest.epochs))
        create(target)
        place = open_storage(target)
        try:
            if uri is None and place.manifest() is not None:
                return target
            place.own()
            if place.manifest() is not None:
                raise BackendError(f"{target}: holds a store already; choose another place, or remove it")
            _transfer(last, manifest, place, progress)
        finally:
            place.close()
    return target


def restore(storage: Storage, snapshot: Storage, now_us: int) -> Manifest:
    """Make the snapshot's contents those of an owned store, by one commit: rows, example keys, positions, weights.

    The number of shards stays. Replicas read what differs; training goes on from the snapshot's positions.
    """
    with snapshot.last_commit() as old:
        source, before = _manifest(snapshot.uri, old), storage.manifest()
        now = source if before is None else before
        fingerprint = {**source.fingerprint, "shards": len(now.epochs)}
        check_fingerprint(storage.uri, now.fingerprint, fingerprint)
        dense, values = old.dense(), old.dense_values()
        if before is not None and dense is None and storage.dense() is not None:
            raise BackendError(f"{snapshot.uri}: has no dense weights, where {storage.uri} has some")
        manifest = replace(
            source,
            fingerprint=fingerprint,
            epochs=tuple(max(epoch + 1, now_us // 1000) for epoch in now.epochs),
            dense_version=max(now.dense_version, source.dense_version) + (values is not None),
            time_us=now_us,
        )
        wanted = _cut(old, source, len(now.epochs))
        shards = [
            _towards(storage if before is not None else None, number, epoch, wanted[number])
            for number, epoch in enumerate(manifest.epochs)
        ]
        published = None if values is None else values.values
        storage.commit(Commit(manifest, shards, _all_seen(old), FORGET_ALL, dense, published))
    return manifest


def drop(storage: Storage, epoch: int) -> str:
    """Remove a snapshot that is beside the store; the address that it had."""
    uri = snapshot_of(storage, epoch)
    snapshot = open_storage(uri)
    try:
        snapshot.own()
        snapshot.destroy()
    finally:
        snapshot.close()
    return uri


def snapshot_of(storage: Storage, epoch: int) -> str:
    """The address of a snapshot beside the store; BackendError, naming those there are, where it is none of them."""
    uris = storage.snapshot_uris()
    if epoch not in uris:
        have = ", ".join(map(str, uris)) or "none"
        raise BackendError(f"{storage.uri}: there is no snapshot {epoch}; there are: {have}")
    return uris[epoch]


def _manifest(uri: str, last: Committed) -> Manifest:
    manifest = last.manifest()
    if manifest is None:
        raise BackendError(f"{uri}: holds no commit yet")
    return manifest


def _transfer(last: Committed, manifest: Manifest, target: Storage, progress: Progress) -> None:
    """Write a commit to another place, owned and empty, as its first."""
    shards = []
    for number, epoch in enumerate(manifest.epochs):
        tables = _tables(last, number)
        shards.append(ShardCommit(epoch, tables, sum(change.nbytes for change in tables.values())))
        progress((number + 1) / (len(manifest.epochs) + 1))
    values = last.dense_values()
    published = None if values is None else values.values
    target.commit(Commit(manifest, shards, _all_seen(last), FORGET_ALL, last.dense(), published))
    progress(1.0)


def _tables(last: Committed, shard: int) -> Tables:
    """All rows of a shard, sorted by id."""
    changes: defaultdict[str, list[Change]] = defaultdict(list)
    for block in last.load(shard).blocks:
        changes[block.table].append(Change(block.keys, block.rows, NO_KEYS))
    return {table: merge(parts) for table, parts in changes.items()}


def _cut(last: Committed, manifest: Manifest, shards: int) -> Sequence[Tables]:
    """All rows, in any number of shards, each sorted by id."""
    parts: Any = [defaultdict(list) for _ in range(shards)]
    for shard in range(len(manifest.epochs)):
        for table, change in _tables(last, shard).items():
            owners = shard_of(change.keys, shards)
            for owner in np.unique(owners).tolist():
                here = owners == owner
                parts[owner][table].append(Change(change.keys[here], change.rows[here], NO_KEYS))
    return [{table: merge(changes) for table, changes in tables.items()} for tables in parts]


def _towards(storage: Storage | None, shard: int, epoch: int, wanted: Tables) -> ShardCommit:
    """What makes a shard of the store (None: an empty one) the wanted one."""
    have = {} if storage is None else _tables(storage, shard)
    tables = dict(wanted)
    for table, change in have.items():
        tables[table] = _difference(change, wanted.get(table, Change(NO_KEYS, change.rows[:0], NO_KEYS)))
    return ShardCommit(epoch, tables, sum(change.nbytes for change in wanted.values()))


def _difference(have: Change, wanted: Change) -> Change:
    """The change that makes the one of the other; both sorted by id."""
    gone = np.setdiff1d(have.keys, wanted.keys, assume_unique=True)
    if not len(have.keys) or have.rows.shape[1] != wanted.rows.shape[1]:
        return Change(wanted.keys, wanted.rows, gone)
    places = np.minimum(np.searchsorted(have.keys, wanted.keys), len(have.keys) - 1)
    same = (have.keys[places] == wanted.keys) & (have.rows[places] == wanted.rows).all(axis=1)
    return Change(wanted.keys[~same], wanted.rows[~same], gone)


def _all_seen(last: Committed) -> SeenKeys:
    blocks = list(last.seen())
    return SeenKeys(
        np.concatenate([NO_KEYS, *(block.keys for block in blocks)]),
        np.concatenate([np.empty(0, np.uint32), *(block.seconds for block in blocks)]),
    )
