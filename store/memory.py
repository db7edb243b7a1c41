"""A backend in memory: for tests, and for trainers whose parameters need not outlive the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import numpy as np

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
    check_shard,
    check_shards,
    fold_is_due,
)
from monobeam.store.bags import shard_of
from monobeam.store.changes import NO_KEYS, Change, merge
from monobeam.store.manifest import Manifest
from monobeam.store.storage import Progress, silent

Tables = Mapping[str, Change]


@dataclass
class _Shard:
    """Base rows as of ``folded``, and deltas; whoever has everything up to ``horizon`` needs only deltas."""

    horizon: int
    folded: int
    base: Tables = field(default_factory=dict)
    deltas: dict[int, Tables] = field(default_factory=dict)

    def since(self, epoch: int) -> Tables:
        return _merged([tables for number, tables in self.deltas.items() if number > epoch])

    def everything(self) -> Tables:
        merged = _merged([self.base, self.since(self.folded)])
        return {name: Change(c.keys, c.rows, c.deletes[:0]) for name, c in merged.items()}

    def copy(self) -> _Shard:
        return replace(self, deltas=dict(self.deltas))


@dataclass
class _Contents:
    manifest: Manifest | None = None
    shards: list[_Shard] = field(default_factory=list)
    seen: list[SeenKeys] = field(default_factory=list)
    dense: bytes | None = None
    dense_values: DenseValues | None = None
    owned: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


_named: dict[str, _Contents] = {}
_named_lock = threading.Lock()


class MemoryBackend:
    """Contents live as long as the backend, or, with a name, as long as the process."""

    def __init__(self, name: str = "", *, keep_epochs: int = KEEP_EPOCHS, fold_bytes: int = FOLD_BYTES) -> None:
        self.uri = f"memory:{name}"
        with _named_lock:
            self._contents = _named.setdefault(name, _Contents()) if name else _Contents()
        self._owner = False
        self._keep_epochs = keep_epochs
        self._fold_bytes = fold_bytes

    def own(self, shards: Sequence[int] | None = None, address: str = "") -> None:
        """See Backend."""
        with self._contents.lock:
            if self._contents.owned and not self._owner:
                raise OwnedError(f"{self.uri}: another store of this process owns it")
            self._contents.owned = self._owner = True

    def manifest(self) -> Manifest | None:
        """See Backend."""
        return self._contents.manifest

    def commit(self, commit: Commit) -> None:
        """See Backend."""
        with self._owned("commit") as contents:
            check_commit(self.uri, contents.manifest, commit)
            if contents.manifest is None:
                contents.shards = [_Shard(shard.epoch - 1, shard.epoch - 1) for shard in commit.shards]
            for shard, change in zip(contents.shards, commit.shards, strict=True):
                if any(change.tables.values()):
                    shard.deltas[change.epoch] = {name: _copy(c) for name, c in change.tables.items() if c}
                self._fold(shard, change.live_bytes)
            contents.seen = [block for block in contents.seen if block.seconds.max() > commit.forget_s]
            if len(commit.seen.keys):
                contents.seen.append(SeenKeys(commit.seen.keys.copy(), commit.seen.seconds.copy()))
            contents.dense = contents.dense if commit.dense is None else commit.dense
            if commit.dense_values is not None:
                contents.dense_values = DenseValues(commit.manifest.dense_version, commit.dense_values)
            contents.manifest = commit.manifest

    def load(self, shard: int) -> Loaded:
        """See Backend."""
        with self._contents.lock:
            if self._contents.manifest is None:
                return Loaded(None, iter(()))
            check_shard(self.uri, self._contents.manifest, shard)
            everything = self._contents.shards[shard].everything()
            return Loaded(self._contents.manifest, (Block(n, c.keys, c.rows) for n, c in everything.items()))

    def changed(self, shard: int, since_epoch: int) -> Changed | None:
        """See Backend."""
        with self._contents.lock:
            manifest = self._contents.manifest
            if manifest is None:
                return None
            check_shard(self.uri, manifest, shard)
            stored = self._contents.shards[shard]
            complete = not stored.horizon <= since_epoch <= manifest.epochs[shard]
            return Changed(manifest, shard, complete, stored.everything() if complete else stored.since(since_epoch))

    def seen(self) -> Iterator[SeenKeys]:
        """See Backend."""
        return iter(list(self._contents.seen))

    def dense(self) -> bytes | None:
        """See Backend."""
        return self._contents.dense

    def dense_values(self) -> DenseValues | None:
        """See Backend."""
        return self._contents.dense_values

    @contextmanager
    def last_commit(self) -> Iterator[MemoryBackend]:
        """See Storage."""
        frozen = MemoryBackend()
        with self._contents.lock:
            shards, seen = [shard.copy() for shard in self._contents.shards], list(self._contents.seen)
            frozen._contents = replace(self._contents, shards=shards, seen=seen, owned=False, lock=threading.Lock())
        frozen.uri = self.uri
        yield frozen

    def reshard(self, shards: int, progress: Progress = silent) -> None:
        """See Storage."""
        check_shards(shards)
        with self._owned("resharding") as contents:
            manifest = contents.manifest
            if manifest is None:
                raise BackendError(f"{self.uri}: holds no commit yet; its first trainer says how many shards it has")
            if shards != len(manifest.epochs):
                contents.shards, contents.manifest = _cut(contents.shards, manifest, shards)
        progress(1.0)

    def compact(self, progress: Progress = silent) -> None:
        """See Storage."""
        with self._owned("compaction") as contents:
            epochs = contents.manifest.epochs if contents.manifest else ()
            for shard, epoch in zip(contents.shards, epochs, strict=True):
                shard.base, shard.deltas = shard.everything(), {}
                shard.horizon = shard.folded = epoch
        progress(1.0)

    def faults(self) -> Iterator[str]:
        """See Storage. What is in memory is as it was put there."""
        return iter(())

    def stored_bytes(self) -> int:
        """See Storage."""
        with self._contents.lock:
            stored = [[shard.base, *shard.deltas.values()] for shard in self._contents.shards]
            return sum(change.nbytes for of_shard in stored for tables in of_shard for change in tables.values())

    def snapshot_uri(self, epoch: int) -> str:
        """See Storage."""
        return f"{self.uri}/snapshots/{epoch}"

    def snapshot_uris(self) -> Mapping[int, str]:
        """See Storage."""
        place = self.snapshot_uri(0).removesuffix("0")
        with _named_lock:
            uris = [f"memory:{name}" for name, contents in _named.items() if contents.manifest is not None]
        return {int(uri.removeprefix(place)): uri for uri in sorted(uris) if uri.startswith(place)}

    def destroy(self) -> None:
        """See Storage."""
        with self._owned("removal"), _named_lock:
            _named.pop(self.uri.removeprefix("memory:"), None)
        self.close()

    def close(self) -> None:
        """See Backend."""
        with self._contents.lock:
            if self._owner:
                self._contents.owned = self._owner = False

    @contextmanager
    def _owned(self, what: str) -> Iterator[_Contents]:
        with self._contents.lock:
            if not self._owner:
                raise OwnedError(f"{self.uri}: {what} by someone who does not own it")
            yield self._contents

    def _fold(self, shard: _Shard, live_bytes: int | None) -> None:
        unfolded = [number for number in shard.deltas if number > shard.folded]
        delta_bytes = sum(c.nbytes for number in unfolded for c in shard.deltas[number].values())
        base_bytes = sum(c.nbytes for c in shard.base.values())
        if not fold_is_due(base_bytes, delta_bytes, live_bytes, self._fold_bytes):
            return
        shard.base, shard.folded = shard.everything(), max(unfolded)
        for number in list(shard.deltas)[: -self._keep_epochs or None]:
            del shard.deltas[number]
            shard.horizon = number


def _merged(parts: list[Tables]) -> dict[str, Change]:
    names = sorted({name for tables in parts for name in tables})
    return {name: merge([tables[name] for tables in parts if name in tables]) for name in names}


def _cut(stored: Sequence[_Shard], manifest: Manifest, shards: int) -> tuple[list[_Shard], Manifest]:
    """The same rows in another number of shards, and the manifest that says so."""
    epoch = max(manifest.epochs) + 1
    everything = _merged([shard.everything() for shard in stored])
    cut = []
    for shard in range(shards):
        places = {name: shard_of(change.keys, shards) == shard for name, change in everything.items()}
        base = {name: Change(c.keys[places[name]], c.rows[places[name]], NO_KEYS) for name, c in everything.items()}
        cut.append(_Shard(epoch, epoch, base))
    fingerprint = {**manifest.fingerprint, "shards": shards}
    return cut, replace(manifest, fingerprint=fingerprint, epochs=(epoch,) * shards)


def _copy(change: Change) -> Change:
    return Change(np.array(change.keys), np.array(change.rows), np.array(change.deletes))
