"""The embedded backend: one LMDB environment, log-structured.

A commit writes one delta per shard: the rows touched since the last. When more of a shard's base and deltas is
superseded than live, they are folded into a new base, a piece with every commit, so that a row is rewritten O(1) times
on average and a commit costs in proportion to what it changes. Deltas stay for a while after folding, for replicas that
fell behind. A commit is one transaction: readers, and whoever opens the store after a crash, see the previous state or
the next.

Keys, besides those of ``ShardLog``: M (manifest, JSON), K number (chunk of example keys, in the order of first sight),
T number and W number (parts of the trainer's bytes and of the encoded dense weights). The file ``owner`` is locked by
the process that commits, and names it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monobeam.store import chunk
from monobeam.store.backend import (
    FOLD_BYTES,
    KEEP_EPOCHS,
    BackendError,
    Block,
    Changed,
    Commit,
    DenseValues,
    Loaded,
    OwnedError,
    SeenKeys,
    check_commit,
    fold_is_due,
)
from monobeam.store.changes import Change, merge
from monobeam.store.environment import MAP_BYTES, Environment
from monobeam.store.manifest import Manifest
from monobeam.store.shard_log import Fold, LiveRows, ShardLog, State

_MANIFEST = b"M"
_NUMBER = struct.Struct(">Q")
_PART_BYTES = 1 << 20
_TAIL_BYTES = 16 << 10
_FOLD_PACE = 4
_FOLD_STEP = 1 << 20


class LmdbBackend:
    """A store in a directory, which the first owner creates.

    ``keep_epochs``: how many deltas outlive folding; ``fold_bytes``: no folding before so much is superseded (see
    ``fold_is_due``); ``map_bytes``: address space to begin with; ``durable``: whether commits wait for the disk
    (without, a crash of the machine may cost the last ones, or the store).
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep_epochs: int = KEEP_EPOCHS,
        fold_bytes: int = FOLD_BYTES,
        map_bytes: int = MAP_BYTES,
        durable: bool = True,
    ) -> None:
        self.uri = f"lmdb:{directory}"
        self._directory = Path(directory)
        self._keep_epochs = keep_epochs
        self._fold_bytes = fold_bytes
        self._map_bytes = map_bytes
        self._durable = durable
        self._lock = threading.Lock()
        self._opened: Environment | None = None
        self._owner: int | None = None
        self._folds: dict[int, Fold] = {}

    def own(self, shards: Sequence[int] | None = None, address: str = "") -> None:
        """See Backend."""
        if self._owner is not None:
            return
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            owner = os.open(self._directory / "owner", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise BackendError(f"{self.uri}: cannot be written: {error}") from error
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            other = os.read(owner, 100).decode(errors="replace").strip()
            os.close(owner)
            raise OwnedError(f"{self.uri}: owned by process {other}; end it first: a store has one owner") from None
        os.ftruncate(owner, 0)
        os.pwrite(owner, f"{os.getpid()}\n".encode(), 0)
        self._owner = owner
        environment = self._environment(create=True)
        assert environment is not None
        environment.take_over()

    def manifest(self) -> Manifest | None:
        """See Backend."""
        with self._read() as txn:
            return _manifest(txn)

    def commit(self, commit: Commit) -> None:
        """See Backend."""
        environment = self._environment()
        if self._owner is None or environment is None:
            raise OwnedError(f"{self.uri}: commit by someone who does not own it")
        try:
            pieces = self._fold_on(commit)
            environment.write(lambda txn: self._write(txn, commit, pieces))
        except BaseException:
            self._folds.clear()  # What they have read is not written; they start again.
            raise
        for number, chunks in pieces.items():
            if self._folds[number].written(chunks):
                del self._folds[number]
                environment.forget_dead_readers()

    def load(self, shard: int) -> Loaded:
        """See Backend."""
        blocks = self._load(shard)
        return Loaded(next(blocks), blocks)  # type: ignore[arg-type]

    def changed(self, shard: int, since_epoch: int) -> Changed | None:
        """See Backend."""
        with self._read() as txn:
            manifest = _manifest(txn)
            if manifest is None:
                return None
            log, names = ShardLog(txn, shard), _names(manifest)
            epoch = manifest.epochs[shard]
            complete = not log.state().horizon <= since_epoch <= epoch
            tables = _everything(log, epoch) if complete else log.since(since_epoch, epoch)
            return Changed(manifest, shard, complete, {names[number]: change for number, change in tables.items()})

    def seen(self) -> Iterator[SeenKeys]:
        """See Backend."""
        with self._read() as txn:
            for key, value in _items(txn, b"K"):
                block = chunk.decode_seen(key, value)
                yield SeenKeys(block.keys.copy(), block.seconds.copy())

    def dense(self) -> bytes | None:
        """See Backend."""
        with self._read() as txn:
            return _get_parts(txn, b"T")

    def dense_values(self) -> DenseValues | None:
        """See Backend."""
        with self._read() as txn:
            manifest, values = _manifest(txn), _get_parts(txn, b"W")
            return DenseValues(manifest.dense_version, values) if manifest and values is not None else None

    def close(self) -> None:
        """See Backend."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None
            if self._owner is not None:
                os.close(self._owner)
                self._owner = None
            self._folds.clear()

    def _environment(self, create: bool = False) -> Environment | None:
        with self._lock:
            if self._opened is None and (create or (self._directory / "data.mdb").exists()):
                self._opened = Environment(self._directory, self._map_bytes, self._durable)
            return self._opened

    @contextlib.contextmanager
    def _read(self) -> Iterator[Any]:
        """A read transaction; an empty one where there is no store yet."""
        environment = self._environment()
        if environment is None:
            yield _Nothing()
            return
        with environment.read() as txn:
            yield txn

    def _load(self, shard: int) -> Iterator[Manifest | Block | None]:
        with self._read() as txn:
            manifest = _manifest(txn)
            yield manifest
            if manifest is None:
                return
            log, names = ShardLog(txn, shard), _names(manifest)
            live = LiveRows(log, manifest.epochs[shard])
            while not live.done:
                number, change = live.read(log)
                if len(change.keys):
                    yield Block(names[number], change.keys, change.rows)

    def _fold_on(self, commit: Commit) -> dict[int, list[memoryview]]:
        """The next pieces of the folds that are due, at a pace that ends them before the next are due."""
        pieces = {}
        with self._read() as txn:
            manifest = _manifest(txn)
            if manifest is None:
                return {}
            for number, shard in enumerate(commit.shards):
                log = ShardLog(txn, number)
                state = log.state()
                if number not in self._folds and fold_is_due(
                    state.base_bytes, state.delta_bytes, shard.live_bytes, self._fold_bytes
                ):
                    self._folds[number] = Fold(log, manifest.epochs[number])
                if number in self._folds:
                    committed = sum(change.nbytes for change in shard.tables.values())
                    pieces[number] = self._folds[number].next_chunks(log, _FOLD_STEP + _FOLD_PACE * committed)
        return pieces

    def _write(self, txn: Any, commit: Commit, pieces: Mapping[int, list[memoryview]]) -> None:
        before = _manifest(txn)
        check_commit(self.uri, before, commit)
        numbers = {name: number for number, name in enumerate(_names(commit.manifest))}
        for number, shard in enumerate(commit.shards):
            log = ShardLog(txn, number)
            if before is None:
                log.set_state(State(shard.epoch - 1, shard.epoch - 1, 0, 0))
            log.append(shard.epoch, {numbers[name]: change for name, change in shard.tables.items()})
            if number in pieces:
                self._folds[number].write(log, pieces[number], self._keep_epochs)
        _forget(txn, commit.forget_s)
        _remember(txn, commit.seen)
        _put_parts(txn, b"T", commit.dense)
        _put_parts(txn, b"W", commit.dense_values)
        txn.put(_MANIFEST, commit.manifest.encode())


class _Nothing:
    """A transaction on a store that does not exist."""

    def get(self, key: bytes) -> None:
        """No key has a value."""

    def cursor(self) -> Any:
        return contextlib.nullcontext(self)

    def set_range(self, key: bytes) -> bool:
        return False


def _manifest(txn: Any) -> Manifest | None:
    data = txn.get(_MANIFEST)
    return None if data is None else Manifest.decode(bytes(data))


def _names(manifest: Manifest) -> list[str]:
    return sorted(manifest.fingerprint["tables"])


def _everything(log: ShardLog, epoch: int) -> dict[int, Change]:
    live = LiveRows(log, epoch)
    by_table: dict[int, list[Change]] = {}
    while not live.done:
        number, change = live.read(log)
        by_table.setdefault(number, []).append(change)
    return {number: merge(changes) for number, changes in by_table.items()}


def _items(txn: Any, kind: bytes) -> Iterator[tuple[bytes, memoryview]]:
    with txn.cursor() as cursor:
        found = cursor.set_range(kind)
        while found:
            key = bytes(cursor.key())
            if key[:1] != kind:
                return
            yield key, cursor.value()
            found = cursor.next()


def _forget(txn: Any, forget_s: int) -> None:
    """Drop the chunks of example keys that are all old; they are in the order of first sight."""
    old = []
    for key, value in _items(txn, b"K"):
        if chunk.newest_second(value) > forget_s:
            break
        old.append(key)
    for key in old:
        txn.delete(key)


def _remember(txn: Any, seen: SeenKeys) -> None:
    """Append example keys; a small last chunk is written again with them, so that chunks do not stay small."""
    if not len(seen.keys):
        return
    with txn.cursor() as cursor:
        last = _last(cursor, b"K")
        number = 0 if last is None else _NUMBER.unpack(last[1:])[0] + 1
        if last is not None and len(cursor.value()) < _TAIL_BYTES:
            tail = chunk.decode_seen(last, cursor.value())
            seen = SeenKeys(np.concatenate([tail.keys, seen.keys]), np.concatenate([tail.seconds, seen.seconds]))
            number -= 1
    for place, data in enumerate(chunk.encode_seen(seen), number):
        txn.put(b"K" + _NUMBER.pack(place), data)


def _last(cursor: Any, kind: bytes) -> bytes | None:
    """The last key of a kind, where the cursor then is."""
    after = bytes([kind[0] + 1])
    found = cursor.prev() if cursor.set_range(after) else cursor.last()
    key = bytes(cursor.key())
    return key if found and key[:1] == kind else None


def _put_parts(txn: Any, kind: bytes, data: bytes | None) -> None:
    if data is None:
        return
    for key in [key for key, _ in _items(txn, kind)]:
        txn.delete(key)
    for number, start in enumerate(range(0, max(1, len(data)), _PART_BYTES)):
        txn.put(kind + _NUMBER.pack(number), data[start : start + _PART_BYTES])


def _get_parts(txn: Any, kind: bytes) -> bytes | None:
    parts = [bytes(value) for _, value in _items(txn, kind)]
    return b"".join(parts) if parts else None
