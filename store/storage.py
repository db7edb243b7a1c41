"""A backend that holds a store itself, and what can be done to the store as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import Protocol

from monobeam.store.backend import Backend, DenseValues, Loaded, SeenKeys, open_backend
from monobeam.store.manifest import Manifest

Progress = Callable[[float], None]
"""Told how much is done, from 0 to 1."""


def silent(_: float) -> None:
    """No progress is shown."""


class Committed(Protocol):
    """All that one commit made true, while others go on committing; the methods are those of Backend."""

    def manifest(self) -> Manifest | None:
        """See Backend."""

    def load(self, shard: int) -> Loaded:
        """See Backend."""

    def seen(self) -> Iterator[SeenKeys]:
        """See Backend."""

    def dense(self) -> bytes | None:
        """See Backend."""

    def dense_values(self) -> DenseValues | None:
        """See Backend."""


class Storage(Backend, Protocol):
    """A backend that is no way to another one. What changes the store is for its owner (OwnedError)."""

    def last_commit(self) -> AbstractContextManager[Committed]:
        """The last commit, as long as the block lasts: what is read in it is all of one moment.

        BackendError, where the backend does not keep it for so long: it can be read again, as of a newer one.
        """

    def reshard(self, shards: int, progress: Progress = silent) -> None:
        """Cut the store anew into so many shards, while others read.

        Nothing of the last commit changes but the number, and the epochs: all are one above the highest before. Killed
        at any time it leaves the old shards or the new ones; called again it goes on, and clears away what is left.
        """

    def compact(self, progress: Progress = silent) -> None:
        """Free what is superseded or left over; replicas that are behind will have to read everything."""

    def faults(self) -> Iterator[str]:
        """What is wrong with the stored values themselves (``monobeam.store.check`` looks at what they say)."""

    def stored_bytes(self) -> int:
        """Bytes that the store takes up, as far as the backend knows."""

    def snapshot_uri(self, epoch: int) -> str:
        """Where the snapshot of an epoch is kept unless someone chooses another place."""

    def snapshot_uris(self) -> Mapping[int, str]:
        """The snapshots that are kept there, by epoch."""

    def destroy(self) -> None:
        """Remove the store with all that is in it, and close."""


def open_storage(uri: str) -> Storage:
    """The store at an address that is its own; ValueError for one of shard servers."""
    backend = open_backend(uri)
    if not hasattr(backend, "last_commit"):
        raise ValueError(f"store {uri!r}: leads to servers; name the store that they own")
    return backend  # type: ignore[return-value]


def create(uri: str) -> None:
    """Make the place for a store; one that is there stays as it is."""
    if uri.startswith("bigtable:"):
        from monobeam.store.bigtable import create as create_table

        create_table(uri)
        return
    storage = open_storage(uri)
    try:
        storage.own()
    finally:
        storage.close()
