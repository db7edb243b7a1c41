"""Where a store is durable: the contract that every backend keeps.

A commit is atomic over all shards: whoever opens or reads the store, whenever the committer died, sees all of it or
nothing of it. Readers (serving) may be in other processes and read while a commit happens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeGuard

import numpy as np
import numpy.typing as npt

from monobeam.store.bags import PREFIXES, Keys
from monobeam.store.changes import Change, Rows
from monobeam.store.manifest import Manifest
from monobeam.store.spec import check_fingerprint

KEEP_EPOCHS = 1024
FOLD_BYTES = 16 << 20
FORGET_ALL = 2**32


class BackendError(OSError):
    """A backend that cannot read or write; what the last successful commit made durable is unharmed."""


class OwnedError(BackendError):
    """A store that someone else owns."""


class AwayError(BackendError):
    """A store that cannot be used now, or no more as it was opened: wait, open it again, go on from its positions."""


class CredentialsError(BackendError):
    """Nobody here may ask the store; others, say workers in a cloud, may be allowed to."""


class StaleError(AwayError):
    """A store that went back to its last commit since it was opened."""


class LeasedError(OwnedError, AwayError):
    """A store, shard or partition that someone else has for now: it is free when they end, or show no more life."""


@dataclass(frozen=True, eq=False)
class SeenKeys:
    """Keys of examples that have been trained on: uint64[N], and when each was first seen: uint32[N] seconds."""

    keys: Keys
    seconds: npt.NDArray[np.uint32]


@dataclass(frozen=True)
class ShardCommit:
    """What changed in a shard since its last epoch, by table; tables without a change may be left out.

    ``live_bytes``: of all its ids and rows, as of this commit; None where that is not known.
    """

    epoch: int
    tables: Mapping[str, Change]
    live_bytes: int | None = None


@dataclass(frozen=True)
class Commit:
    """What becomes true at once.

    ``shards``: by number, one for every shard; ``seen``: newly seen example keys; of the keys of before, those first
    seen at or before ``forget_s`` (seconds) may be forgotten, and with FORGET_ALL all are; ``dense``: the trainer's own
    bytes, ``dense_values``: encoded weights for serving (None: the ones before stay).
    """

    manifest: Manifest
    shards: Sequence[ShardCommit]
    seen: SeenKeys
    forget_s: int
    dense: bytes | None = None
    dense_values: bytes | None = None


class Block(NamedTuple):
    """Some rows of a table: uint64[N] and uint8[N, row_bytes]."""

    table: str
    keys: Keys
    rows: Rows


class Loaded(NamedTuple):
    """A shard as of the manifest: every live row once. Finish or close the iterator: it may hold a snapshot."""

    manifest: Manifest | None
    blocks: Iterator[Block]


@dataclass(frozen=True)
class Changed:
    """The difference between what a shard was at an earlier epoch and what it is as of the manifest.

    With ``complete`` that epoch is no longer known, and ``tables`` holds everything: drop all other rows.
    """

    manifest: Manifest
    shard: int
    complete: bool
    tables: Mapping[str, Change]

    @property
    def epoch(self) -> int:
        """The epoch that the difference leads to."""
        return self.manifest.epochs[self.shard]


class DenseValues(NamedTuple):
    """The dense weights for serving that were published last, and their version."""

    version: int
    values: bytes


class Backend(Protocol):
    """Durable storage of one store. Reading needs no ownership; committing does."""

    uri: str

    def own(self, shards: Sequence[int] | None = None, address: str = "") -> None:
        """Become the one owner of shards (None: of the whole store); OwnedError, saying who is it, if there is another.

        ``address``: where others may ask for them. Only a SharedBackend can be owned in part.
        """

    def manifest(self) -> Manifest | None:
        """What the last commit made true; None before the first."""

    def commit(self, commit: Commit) -> None:
        """Make all of it durable and visible, or raise BackendError and leave everything as it was."""

    def load(self, shard: int) -> Loaded:
        """All rows of a shard, in blocks."""

    def changed(self, shard: int, since_epoch: int) -> Changed | None:
        """What changed in a shard since an epoch; None before the first commit."""

    def seen(self) -> Iterator[SeenKeys]:
        """All example keys that have not been forgotten, in blocks."""

    def dense(self) -> bytes | None:
        """The trainer's own bytes."""

    def dense_values(self) -> DenseValues | None:
        """The dense weights for serving."""

    def close(self) -> None:
        """Give back ownership and resources; it can be owned again."""


class SharedBackend(Backend, Protocol):
    """A backend whose shards may have owners in several processes; the owner of shard 0 is its head and publishes.

    Ownership is a lease that must be renewed. Whoever lost it, and does not know it yet, can write nothing that anyone
    will ever see: ``prepare`` and ``publish`` then raise OwnedError.
    """

    def owners(self) -> Mapping[int, str]:
        """The addresses of the shards whose owners did not give them back; whether they live is known by asking."""

    def check_owned(self) -> None:
        """OwnedError unless the leases of this owner are in force now."""

    def prepare(self, shards: Mapping[int, ShardCommit]) -> None:
        """Make changes of owned shards durable, but visible to nobody before their epochs are published."""

    def publish(self, commit: Commit) -> None:
        """Make visible what was prepared for the manifest's epochs in all shards (the commit's own have no tables)."""

    def recover(self, shards: Sequence[int]) -> None:
        """Undo what was prepared in owned shards and never published; while nothing is being published."""


def is_shared(backend: Backend) -> TypeGuard[SharedBackend]:
    """Whether its shards may have several owners."""
    return hasattr(backend, "publish")


def open_backend(uri: str) -> Backend:
    """The backend at ``memory:`` (its own), ``memory:NAME`` (one of this process), ``lmdb:DIRECTORY``,
    ``bigtable://PROJECT/INSTANCE/TABLE``, or that of the shard server at ``flight://HOST:PORT``, only to read.
    """
    from monobeam.store.lmdb import LmdbBackend
    from monobeam.store.memory import MemoryBackend

    kind, _, place = uri.partition(":")
    if kind == "memory":
        return MemoryBackend(place)
    if kind == "lmdb" and place:
        return LmdbBackend(place)
    if kind == "bigtable":
        from monobeam.store.bigtable.backend import BigtableBackend  # a second of imports that others need not wait for

        return BigtableBackend(uri)
    if kind in ("flight", "flight+tls"):
        from monobeam.store.flight_backend import FlightBackend

        return FlightBackend(uri)
    raise ValueError(
        f"store {uri!r}: must be memory:, memory:NAME, lmdb:DIRECTORY, bigtable://PROJECT/INSTANCE/TABLE "
        "or flight://HOST:PORT"
    )


def fold_is_due(base_bytes: int, delta_bytes: int, live_bytes: int | None, fold_bytes: int) -> bool:
    """Whether more of a base and its deltas is superseded than live, and more than ``fold_bytes``.

    Folding writes the live rows anew, so it must not come before it frees as much: then every byte that is written
    costs at most one more, and what is stored stays below twice what is live. New ids supersede nothing. Where the
    live bytes are not known, they are taken to be those of the base.
    """
    live = base_bytes if live_bytes is None else live_bytes
    return base_bytes + delta_bytes - live > max(fold_bytes, live)


def check_shard(uri: str, manifest: Manifest, shard: int) -> None:
    """BackendError where there is no such shard: the store may have been cut into fewer since the caller looked."""
    if not 0 <= shard < len(manifest.epochs):
        raise BackendError(f"{uri}: there is no shard {shard}: it has {len(manifest.epochs)}")


def check_shards(shards: int) -> None:
    """ValueError for a number of shards that no store can have."""
    if not 1 <= shards <= PREFIXES:
        raise ValueError(f"shards = {shards}: must be 1..{PREFIXES}")


def check_commit(uri: str, before: Manifest | None, commit: Commit) -> None:
    """Refuse a commit that is not the next one after the manifest before it."""
    epochs = commit.manifest.epochs
    if tuple(shard.epoch for shard in commit.shards) != epochs:
        raise ValueError(f"{uri}: shards at {[s.epoch for s in commit.shards]} in a commit of epochs {epochs}")
    if before is None:
        return
    check_fingerprint(uri, before.fingerprint, commit.manifest.fingerprint)
    for number, (was, now) in enumerate(zip(before.epochs, epochs, strict=True)):
        if now <= was:
            raise BackendError(f"{uri}: epoch {now} of shard {number} after {was}: epochs must rise; who else commits?")
