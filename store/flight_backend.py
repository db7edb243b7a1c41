"""The backend of a shard server, read over Arrow Flight: what serving loads and catches up from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any

from monobeam.store.backend import AwayError, BackendError, Changed, Commit, DenseValues, Loaded, SeenKeys
from monobeam.store.connection import Connection
from monobeam.store.manifest import Manifest
from monobeam.store.reading import block_of, changed_of, manifest_of, seen_of
from monobeam.store.wire import Message, Place


class FlightBackend:
    """A store behind one of several shard servers, the first that answers; for several threads at once."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._addresses = Place.parse(uri).addresses

    def own(self, shards: Sequence[int] | None = None, address: str = "") -> None:
        """Refuses: the servers own the store."""
        raise BackendError(f"{self.uri}: shard servers own this store; a trainer opens it as a FlightStore")

    def manifest(self) -> Manifest | None:
        """See Backend."""
        (message,) = self._read("manifest")
        return manifest_of(message.header)

    def commit(self, commit: Commit) -> None:
        """Refuses: a trainer commits by a FlightStore."""
        self.own()

    def load(self, shard: int) -> Loaded:
        """See Backend."""
        messages = self._read("load", shard=shard)
        return Loaded(manifest_of(next(messages).header), (block_of(message) for message in messages))

    def changed(self, shard: int, since_epoch: int) -> Changed | None:
        """See Backend."""
        return changed_of(shard, self._read("changed", shard=shard, since=since_epoch))

    def seen(self) -> Iterator[SeenKeys]:
        """See Backend."""
        return (seen_of(message) for message in self._read("seen"))

    def dense(self) -> bytes | None:
        """See Backend."""
        return next((message.arrays[0].tobytes() for message in self._read("dense")), None)

    def dense_values(self) -> DenseValues | None:
        """See Backend."""
        messages = self._read("dense_values")
        return next((DenseValues(m.header["version"], m.arrays[0].tobytes()) for m in messages), None)

    def close(self) -> None:
        """See Backend."""

    def _read(self, what: str, **header: Any) -> Iterator[Message]:
        """The answers of the first server that can be reached."""
        with closing(self._connection()) as connection:
            yield from connection.stream(f"read.{what}", header)

    def _connection(self) -> Connection:
        return first(self._addresses)


def first(addresses: Sequence[str]) -> Connection:
    """A connection to the first of several servers that answers; AwayError, naming all, where none does."""
    failures = []
    for address in addresses:
        try:
            connection = Connection(address)
            try:
                connection.call("generation", {})  # a server that waits for its shards answers nothing
            except BaseException:
                connection.close()
                raise
            return connection
        except AwayError as error:
            failures.append(str(error))
    raise AwayError("; ".join(failures))
