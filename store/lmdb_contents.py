"""What a transaction on an LMDB store sees, and how its values other than rows are written.

Keys, besides those of ``ShardLog``: M (manifest, JSON), L (number of the layout in use, 0 where it is missing), R (a
resharding that is not finished, JSON), K number (chunk of example keys, in the order of first sight), T number and W
number (parts of the trainer's bytes and of the encoded dense weights).
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from monobeam.store import chunk
from monobeam.store.backend import Block, Changed, DenseValues, Loaded, SeenKeys, check_shard
from monobeam.store.changes import Change, merge
from monobeam.store.manifest import Manifest
from monobeam.store.shard_log import LiveRows, ShardLog

MANIFEST, LAYOUT, SEEN, DENSE, DENSE_VALUES = b"M", b"L", b"K", b"T", b"W"

_LAYOUT = struct.Struct(">I")
_NUMBER = struct.Struct(">Q")
_PART_BYTES = 1 << 20
_TAIL_BYTES = 16 << 10


class Contents:
    """The store in an open transaction: see ``Committed`` and Backend."""

    def __init__(self, uri: str, txn: Any) -> None:
        self.txn = txn
        self._uri = uri

    def manifest(self) -> Manifest | None:
        """What the last commit made true."""
        data = self.txn.get(MANIFEST)
        return None if data is None else Manifest.decode(bytes(data))

    def layout(self) -> int:
        """The number of the layout that the manifest is of."""
        data = self.txn.get(LAYOUT)
        return 0 if data is None else int(_LAYOUT.unpack(data)[0])

    def log(self, shard: int) -> ShardLog:
        """A shard, in the layout in use."""
        return ShardLog(self.txn, self.layout(), shard)

    def load(self, shard: int) -> Loaded:
        """All rows of a shard; as long as the transaction."""
        manifest = self.manifest()
        if manifest is None:
            return Loaded(None, iter(()))
        check_shard(self._uri, manifest, shard)
        return Loaded(manifest, self._blocks(manifest, shard))

    def changed(self, shard: int, since_epoch: int) -> Changed | None:
        """What changed in a shard since an epoch."""
        manifest = self.manifest()
        if manifest is None:
            return None
        check_shard(self._uri, manifest, shard)
        log, names, epoch = self.log(shard), table_names(manifest), manifest.epochs[shard]
        complete = not log.state().horizon <= since_epoch <= epoch
        tables = _everything(log, epoch) if complete else log.since(since_epoch, epoch)
        return Changed(manifest, shard, complete, {names[number]: change for number, change in tables.items()})

    def seen(self) -> Iterator[SeenKeys]:
        """All example keys."""
        for key, value in items(self.txn, SEEN):
            block = chunk.decode_seen(key, value)
            yield SeenKeys(block.keys.copy(), block.seconds.copy())

    def dense(self) -> bytes | None:
        """The trainer's own bytes."""
        return _get_parts(self.txn, DENSE)

    def dense_values(self) -> DenseValues | None:
        """The dense weights for serving."""
        manifest, values = self.manifest(), _get_parts(self.txn, DENSE_VALUES)
        return DenseValues(manifest.dense_version, values) if manifest and values is not None else None

    def _blocks(self, manifest: Manifest, shard: int) -> Iterator[Block]:
        log, names = self.log(shard), table_names(manifest)
        live = LiveRows(log, manifest.epochs[shard])
        while not live.done:
            number, change = live.read(log)
            if len(change.keys):
                yield Block(names[number], change.keys, change.rows)


class Nothing:
    """A transaction on a store that does not exist."""

    def get(self, key: bytes) -> None:
        """No key has a value."""

    def cursor(self) -> Any:
        """A cursor that finds nothing."""
        return contextlib.nullcontext(self)

    def set_range(self, key: bytes) -> bool:
        """There is no key."""
        return False


def table_names(manifest: Manifest) -> list[str]:
    """The names of the tables, by number."""
    return sorted(manifest.fingerprint["tables"])


def items(txn: Any, prefix: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """The keys that begin so, in order, and their values."""
    with txn.cursor() as cursor:
        found = cursor.set_range(prefix)
        while found:
            key = bytes(cursor.key())
            if not key.startswith(prefix):
                return
            yield key, cursor.value()
            found = cursor.next()


def set_layout(txn: Any, layout: int) -> None:
    """Say which layout is in use."""
    txn.put(LAYOUT, _LAYOUT.pack(layout))


def forget(txn: Any, forget_s: int) -> None:
    """Drop the chunks of example keys that are all old; they are in the order of first sight."""
    old = []
    for key, value in items(txn, SEEN):
        if chunk.newest_second(value) > forget_s:
            break
        old.append(key)
    for key in old:
        txn.delete(key)


def remember(txn: Any, seen: SeenKeys) -> None:
    """Append example keys; a small last chunk is written again with them, so that chunks do not stay small."""
    if not len(seen.keys):
        return
    with txn.cursor() as cursor:
        last = _last(cursor, SEEN)
        number = 0 if last is None else _NUMBER.unpack(last[1:])[0] + 1
        if last is not None and len(cursor.value()) < _TAIL_BYTES:
            tail = chunk.decode_seen(last, cursor.value())
            seen = SeenKeys(np.concatenate([tail.keys, seen.keys]), np.concatenate([tail.seconds, seen.seconds]))
            number -= 1
    for place, data in enumerate(chunk.encode_seen(seen), number):
        txn.put(SEEN + _NUMBER.pack(place), data)


def put_parts(txn: Any, kind: bytes, data: bytes | None) -> None:
    """Write bytes of any length in place of those before; None leaves these."""
    if data is None:
        return
    for key in [key for key, _ in items(txn, kind)]:
        txn.delete(key)
    for number, start in enumerate(range(0, max(1, len(data)), _PART_BYTES)):
        txn.put(kind + _NUMBER.pack(number), data[start : start + _PART_BYTES])


def _get_parts(txn: Any, kind: bytes) -> bytes | None:
    parts = [bytes(value) for _, value in items(txn, kind)]
    return b"".join(parts) if parts else None


def _everything(log: ShardLog, epoch: int) -> dict[int, Change]:
    live = LiveRows(log, epoch)
    by_table: dict[int, list[Change]] = {}
    while not live.done:
        number, change = live.read(log)
        by_table.setdefault(number, []).append(change)
    return {number: merge(changes) for number, changes in by_table.items()}


def _last(cursor: Any, kind: bytes) -> bytes | None:
    """The last key of a kind, where the cursor then is."""
    after = bytes([kind[0] + 1])
    found = cursor.prev() if cursor.set_range(after) else cursor.last()
    key = bytes(cursor.key())
    return key if found and key[:1] == kind else None
