"""The embedded backend: one LMDB environment, log-structured.

A commit writes one delta per shard: the rows touched since the last. When more of a shard's base and deltas is
superseded than live, they are folded into a new base, a piece with every commit, so that a row is rewritten O(1) times
on average and a commit costs in proportion to what it changes. Deltas stay for a while after folding, for replicas that
fell behind. A commit is one transaction: readers, and whoever opens the store after a crash, see the previous state or
the next.

The file ``owner`` is locked by the process that commits, and names it. ``snapshots`` has the stores that were kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

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
    check_shards,
    fold_is_due,
)
from monobeam.store.environment import MAP_BYTES, Environment
from monobeam.store.lmdb_check import faults
from monobeam.store.lmdb_contents import (
    DENSE,
    DENSE_VALUES,
    MANIFEST,
    Contents,
    Nothing,
    forget,
    put_parts,
    remember,
    table_names,
)
from monobeam.store.lmdb_reshard import STEP_BYTES, Resharding
from monobeam.store.manifest import Manifest
from monobeam.store.shard_log import Fold, State
from monobeam.store.storage import Progress, silent

_FOLD_PACE = 4
_FOLD_STEP = 1 << 20


class LmdbBackend:
    """A store in a directory, which the first owner creates.

    ``keep_epochs``: how many deltas outlive folding; ``fold_bytes``: no folding before so much is superseded (see
    ``fold_is_due``); ``map_bytes``: address space to begin with; ``durable``: whether commits wait for the disk
    (without, a crash of the machine may cost the last ones, or the store); ``step_bytes``: of rows in each transaction
    of a resharding.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep_epochs: int = KEEP_EPOCHS,
        fold_bytes: int = FOLD_BYTES,
        map_bytes: int = MAP_BYTES,
        durable: bool = True,
        step_bytes: int = STEP_BYTES,
    ) -> None:
        self.uri = f"lmdb:{directory}"
        self._directory = Path(directory)
        self._keep_epochs = keep_epochs
        self._fold_bytes = fold_bytes
        self._map_bytes = map_bytes
        self._durable = durable
        self._step_bytes = step_bytes
        self._lock = threading.Lock()
        self._opened: Environment | None = None
        self._owner: int | None = None
        self._folds: dict[int, Fold] = {}

    def own(self, shards: Sequence[int] | None = None, address: str = "") -> None:
        """See Backend."""
        if self._owner is not None:
            return
        self._owner = self._claimed()
        try:
            environment = self._environment(create=True)
            assert environment is not None
            environment.take_over()
        except BaseException:
            self.close()
            raise

    def manifest(self) -> Manifest | None:
        """See Backend."""
        with self.last_commit() as last:
            return last.manifest()

    def commit(self, commit: Commit) -> None:
        """See Backend."""
        environment = self._owned("commit")
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
        with self.last_commit() as last:
            return last.changed(shard, since_epoch)

    def seen(self) -> Iterator[SeenKeys]:
        """See Backend."""
        with self.last_commit() as last:
            yield from last.seen()

    def dense(self) -> bytes | None:
        """See Backend."""
        with self.last_commit() as last:
            return last.dense()

    def dense_values(self) -> DenseValues | None:
        """See Backend."""
        with self.last_commit() as last:
            return last.dense_values()

    @contextlib.contextmanager
    def last_commit(self) -> Iterator[Contents]:
        """See Storage. One read transaction: pages that it sees are not used again before it ends."""
        environment = self._environment()
        if environment is None:
            yield Contents(self.uri, Nothing())
            return
        with environment.read() as txn:
            yield Contents(self.uri, txn)

    def reshard(self, shards: int, progress: Progress = silent) -> None:
        """See Storage."""
        environment = self._owned("resharding")
        check_shards(shards)
        self._folds.clear()
        Resharding(self.uri, environment, self._step_bytes).run(shards, progress)

    def compact(self, progress: Progress = silent) -> None:
        """See Storage. The file does not shrink: what is freed is used again."""
        environment, manifest = self._owned("compaction"), self.manifest()
        self._folds.clear()
        Resharding(self.uri, environment).clean()
        for shard, epoch in enumerate(() if manifest is None else manifest.epochs):
            self._compact(environment, shard, epoch)
            progress((shard + 1) / len(manifest.epochs))  # type: ignore[union-attr]
        environment.forget_dead_readers()

    def faults(self) -> Iterator[str]:
        """See Storage."""
        with self.last_commit() as last:
            yield from faults(last)

    def stored_bytes(self) -> int:
        """See Storage."""
        file = self._directory / "data.mdb"
        return file.stat().st_size if file.exists() else 0

    def copy(self, directory: Path) -> None:
        """Write the last commit to a directory without a store."""
        environment = self._environment()
        if environment is None:
            raise BackendError(f"{self.uri}: there is no store")
        environment.copy(directory)

    def snapshot_uri(self, epoch: int) -> str:
        """See Storage."""
        return f"lmdb:{self._directory / 'snapshots' / str(epoch)}"

    def snapshot_uris(self) -> Mapping[int, str]:
        """See Storage."""
        epochs = sorted(int(path.name) for path in self._directory.glob("snapshots/*") if path.name.isdigit())
        return {epoch: self.snapshot_uri(epoch) for epoch in epochs}

    def destroy(self) -> None:
        """See Storage. First it stops to be a store; whoever reads it keeps what is open."""
        self._owned("removal")
        (self._directory / "data.mdb").unlink()
        shutil.rmtree(self._directory)
        self.close()

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

    def _claimed(self) -> int:
        """The file that says who is the owner, locked; a lock goes with its process."""
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            owner = os.open(self._directory / "owner", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise BackendError(f"{self.uri}: cannot be written: {error}") from error
        try:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(owner, 0)
            os.pwrite(owner, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            other = os.read(owner, 100).decode(errors="replace").strip()
            os.close(owner)
            raise OwnedError(f"{self.uri}: owned by process {other}; end it first: a store has one owner") from None
        except OSError as error:
            os.close(owner)
            raise BackendError(f"{self.uri}: cannot be locked: {error}") from error
        return owner

    def _environment(self, create: bool = False) -> Environment | None:
        with self._lock:
            if self._opened is None and (create or (self._directory / "data.mdb").exists()):
                self._opened = Environment(self._directory, self._map_bytes, self._durable)
            return self._opened

    def _owned(self, what: str) -> Environment:
        environment = self._environment()
        if self._owner is None or environment is None:
            raise OwnedError(f"{self.uri}: {what} by someone who does not own it")
        return environment

    def _load(self, shard: int) -> Iterator[Manifest | Block | None]:
        with self.last_commit() as last:
            loaded = last.load(shard)
            yield loaded.manifest
            yield from loaded.blocks

    def _compact(self, environment: Environment, shard: int, epoch: int) -> None:
        with self.last_commit() as last:
            fold = Fold(last.log(shard), epoch) if last.log(shard).state().delta_bytes else None
        while fold is not None:
            with self.last_commit() as last:
                chunks = fold.next_chunks(last.log(shard), self._step_bytes)
            environment.write(lambda txn: fold.write(Contents(self.uri, txn).log(shard), chunks, 0))  # noqa: B023
            if fold.written(chunks):
                return
        environment.write(lambda txn: Contents(self.uri, txn).log(shard).trim(0))

    def _fold_on(self, commit: Commit) -> dict[int, list[memoryview]]:
        """The next pieces of the folds that are due, at a pace that ends them before the next are due."""
        pieces = {}
        with self.last_commit() as last:
            manifest = last.manifest()
            if manifest is None:
                return {}
            for number, shard in enumerate(commit.shards):
                log = last.log(number)
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
        contents = Contents(self.uri, txn)
        before = contents.manifest()
        check_commit(self.uri, before, commit)
        numbers = {name: number for number, name in enumerate(table_names(commit.manifest))}
        for number, shard in enumerate(commit.shards):
            log = contents.log(number)
            if before is None:
                log.set_state(State(shard.epoch - 1, shard.epoch - 1, 0, 0))
            log.append(shard.epoch, {numbers[name]: change for name, change in shard.tables.items()})
            if number in pieces:
                self._folds[number].write(log, pieces[number], self._keep_epochs)
        forget(txn, commit.forget_s)
        remember(txn, commit.seen)
        put_parts(txn, DENSE, commit.dense)
        put_parts(txn, DENSE_VALUES, commit.dense_values)
        txn.put(MANIFEST, commit.manifest.encode())
