"""A reproducible history of a whole store, whatever its shards, and dicts that say what it must hold.

Run as a program, with what to do and an LMDB directory, it is another process that uses the store.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from monobeam.store import dense, lmdb_copy
from monobeam.store.backend import Backend, Commit, SeenKeys, ShardCommit
from monobeam.store.bags import Keys, shard_of
from monobeam.store.changes import Change
from monobeam.store.lmdb import LmdbBackend
from monobeam.store.manifest import Manifest
from tests.store.history import ROW_BYTES, Rows, apply, rows_of, seen_of

ROOT = Path(__file__).parents[2]
IDS = 500
STEP_BYTES = 2 << 10


@dataclass
class Whole:
    """What a store holds after ``number`` commits (each of them seeded by its number)."""

    number: int = 0
    rows: Rows = field(default_factory=dict)
    seen: dict[int, int] = field(default_factory=dict)

    def commit(self, backend: Backend, shards: int | None = None) -> Manifest:
        """Commit once more to an owned store; ``shards``: of a first commit."""
        changes, keys = self._next()
        manifest = self.manifest(len(self.epochs(backend)) or shards or 1)
        parts = [{name: _part(whole, shard, len(manifest.epochs)) for name, whole in changes.items()}
                 for shard in range(len(manifest.epochs))]  # fmt: skip
        backend.commit(
            Commit(
                manifest,
                [ShardCommit(epoch, tables) for epoch, tables in zip(manifest.epochs, parts, strict=True)],
                SeenKeys(keys, np.full(50, 1000 + self.number, np.uint32)),
                0,
                self.dense,
                self.dense_values,
            )
        )
        return manifest

    def advance(self, number: int) -> Whole:
        """What a store holds after so many commits."""
        while self.number < number:
            self._next()
        return self

    def _next(self) -> tuple[dict[str, Change], Keys]:
        self.number += 1
        rng = np.random.default_rng(self.number)
        changes = {name: _change(rng, size) for name, size in ROW_BYTES.items()}
        keys = rng.integers(0, 2**63, 50).astype(np.uint64)
        apply(self.rows, changes)
        self.seen.update(dict.fromkeys(keys.tolist(), 1000 + self.number))
        return changes, keys

    def manifest(self, shards: int) -> Manifest:
        return Manifest(
            fingerprint={"model": "m", "shards": shards, "tables": {name: {"dim": 2} for name in ROW_BYTES}},
            epochs=tuple(1000 * self.number + shard for shard in range(shards)),
            positions={0: self.number, 7: 2 * self.number},
            dense_version=self.number,
            time_us=self.number,
            meta={"number": self.number},
        )

    @staticmethod
    def epochs(backend: Backend) -> tuple[int, ...]:
        stored = backend.manifest()
        return () if stored is None else stored.epochs

    @property
    def dense(self) -> bytes:
        return b"dense %d" % self.number

    @property
    def dense_values(self) -> bytes:
        return dense.encode({"bias": np.array([self.number], np.float32)})

    def check(self, backend: Any, shards: int) -> None:
        """The store is this, in so many shards, each row in its own."""
        stored = backend.manifest()
        assert stored is not None
        assert len(stored.epochs) == shards
        assert (stored.fingerprint, stored.positions, stored.meta) == (
            self.manifest(shards).fingerprint,
            {0: self.number, 7: 2 * self.number},
            {"number": self.number},
        )
        found: Rows = {}
        for shard in range(shards):
            for name, table in rows_of(backend, shard).items():
                assert (shard_of(np.array(list(table), np.uint64), shards) == shard).all()
                found.setdefault(name, {}).update(table)
        assert found == {name: table for name, table in self.rows.items() if table}
        assert seen_of(backend) == self.seen
        assert backend.dense() == self.dense
        values = backend.dense_values()
        assert values is not None
        assert values.values == self.dense_values


@contextmanager
def process(task: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Another process with a task of this module; it is killed in the end."""
    command = [sys.executable, "-m", "tests.store.whole", task, *map(str, arguments)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def _change(rng: np.random.Generator, row_bytes: int) -> Change:
    """Random rows and deletes among few ids, so that commits overlap."""
    keys = rng.choice(IDS, 60, replace=False).astype(np.uint64)
    gone = np.setdiff1d(rng.integers(0, IDS, 8).astype(np.uint64), keys)
    return Change(keys, rng.integers(0, 256, (60, row_bytes)).astype(np.uint8), gone)


def _part(whole: Change, shard: int, shards: int) -> Change:
    keys, deletes = (shard_of(ids, shards) == shard for ids in (whole.keys, whole.deletes))
    return Change(whole.keys[keys], whole.rows[keys], whole.deletes[deletes])


def reshard(directory: str, shards: str) -> None:
    """Cut the store anew, waiting for a line on standard input before each step."""
    backend = LmdbBackend(directory, step_bytes=STEP_BYTES)
    backend.own()

    def say(done: float) -> None:
        print(f"{done:.3f}", flush=True)
        sys.stdin.readline()

    say(0)
    backend.reshard(int(shards), say)


def write(directory: str) -> None:
    """Commit for ever, from the beginning."""
    backend, whole = LmdbBackend(directory, fold_bytes=1 << 14, keep_epochs=8), Whole()
    backend.own()
    while True:
        whole.commit(backend, 3)


def draft(directory: str) -> None:
    """Copy the store, but do not come to an end."""
    store = LmdbBackend(directory)
    with lmdb_copy.draft_in(lmdb_copy.folder_of(store)) as unfinished:
        store.copy(unfinished)
        print(unfinished, flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    {"reshard": reshard, "write": write, "draft": draft}[sys.argv[1]](*sys.argv[2:])
