"""The shard servers of a store as its head sees them: itself, and others over connections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from monobeam.store.backend import AwayError, Backend, ShardCommit, is_shared
from monobeam.store.connection import Connection
from monobeam.store.head import Member
from monobeam.store.host import Asked
from monobeam.store.hosting import Hosting
from monobeam.store.publishing import Announcement
from monobeam.store.reading import announced
from monobeam.store.spec import StoreSpec


class LocalMember:
    """The shards of the head's own process."""

    def __init__(self, address: str, hosting: Hosting) -> None:
        self.address = address
        self.numbers = hosting.numbers
        self._hosting = hosting

    def generation(self) -> int:
        """See Member."""
        return self._hosting.generation

    def begin(self, generation: int, spec: StoreSpec) -> Asked[None]:
        """See Member."""
        return lambda: self._hosting.begin(generation, spec, self.address)  # only now: the others are at work then

    def prepare(self, generation: int, epochs: Sequence[int]) -> Asked[Mapping[int, ShardCommit]]:
        """See Member."""
        return lambda: self._hosting.prepare(generation, epochs)

    def committed(self, generation: int, epochs: Sequence[int], said: Announcement) -> Asked[None]:
        """See Member."""
        return lambda: self._hosting.committed(generation, epochs, said)


class RemoteMember:
    """The shards of another server."""

    def __init__(self, connection: Connection, numbers: Sequence[int], head: str) -> None:
        self.address = connection.address
        self._head = head
        self.numbers = tuple(numbers)
        self._connection = connection

    def generation(self) -> int:
        """See Member."""
        return int(self._connection.call("generation", {}).header["generation"])

    def begin(self, generation: int, spec: StoreSpec) -> Asked[None]:
        """See Member."""
        header = {"generation": generation, "spec": spec.encode().decode(), "head": self._head}
        asked = self._connection.ask("begin_generation", header)
        return lambda: asked.answer() and None

    def prepare(self, generation: int, epochs: Sequence[int]) -> Asked[Mapping[int, ShardCommit]]:
        """See Member."""
        asked = self._connection.ask("prepare", {"generation": generation, "epochs": list(epochs)})

        def answer() -> Mapping[int, ShardCommit]:
            asked.answer()
            return {number: ShardCommit(epochs[number], {}) for number in self.numbers if number < len(epochs)}

        return answer

    def committed(self, generation: int, epochs: Sequence[int], said: Announcement) -> Asked[None]:
        """See Member."""
        header, arrays = announced(said)
        asked = self._connection.ask("committed", {"generation": generation, "epochs": list(epochs), **header}, *arrays)
        return lambda: asked.answer() and None


class Members:
    """Finds the servers of all shards by the leases in the backend, and keeps connections to them."""

    def __init__(self, backend: Backend, local: LocalMember) -> None:
        self._backend = backend
        self._local = local
        self._connections: dict[str, Connection] = {}

    def __call__(self, shards: int) -> list[Member]:
        """The servers of a store with this many shards; AwayError, naming the shards, where some have none."""
        if not is_shared(self._backend):
            return [self._local]
        owners = {number: address for number, address in self._backend.owners().items() if number < shards}
        if missing := [number for number in range(shards) if number not in owners]:
            raise AwayError(f"{self._backend.uri}: shards {missing} have no server")
        by_address: dict[str, list[int]] = {}
        for number, address in sorted(owners.items()):
            by_address.setdefault(address, []).append(number)
        return [
            self._local if address == self._local.address else self._remote(address, numbers)
            for address, numbers in by_address.items()
        ]

    def close(self) -> None:
        """End the connections."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    def _remote(self, address: str, numbers: Sequence[int]) -> RemoteMember:
        connection = self._connections.get(address)
        if connection is not None and connection.broken:
            connection.close()
            connection = None
        if connection is None:
            connection = self._connections[address] = Connection(address)
        return RemoteMember(connection, numbers, self._local.address)
