"""The parameter store in shard servers, as a trainer in another process has it."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from monobeam.store.backend import BackendError, Changed
from monobeam.store.bags import Bags, Floats, Keys, Mask
from monobeam.store.connection import Connection, Pending
from monobeam.store.flight_backend import FlightBackend, first
from monobeam.store.host import Asked, Counts, Figures
from monobeam.store.parameters import ParameterStore, Pulled
from monobeam.store.reading import events_of, manifest_in
from monobeam.store.spec import StoreSpec
from monobeam.store.sync import TableChange
from monobeam.store.wire import Message, Place, as_array

T = TypeVar("T")


class FlightStore(ParameterStore):
    """A store at ``flight://HOST:PORT``, the address of any of its servers; bit-equal to one in process.

    ``partitions``: of the examples log that this trainer has (None: all). LeasedError where another trainer has one of
    them. AwayError from any method: close it, wait, and open it again; what was not committed is then gone.
    """

    def __init__(self, spec: StoreSpec, uri: str, partitions: Collection[int] | None = None) -> None:
        with closing(first(Place.parse(uri).addresses)) as any_server:
            address = any_server.call("where", {}).header["head"]
        with ExitStack() as on_failure:
            head = _Head(Connection(address), FlightBackend(uri))
            on_failure.callback(head.close)
            opened = head.open(spec, partitions)
            hosts = []
            for address, numbers in opened["servers"].items():
                host = _Host(address, opened["generation"], spec)
                on_failure.callback(host.close)
                hosts.append(([number for number in numbers if number < spec.shards], host))
            on_failure.pop_all()
        super().__init__(spec, head, hosts)
        self._flight_head, self._flight_hosts = head, [host for _, host in hosts]
        self._told = False  # the head knows that there is work outside of blocks

    @contextmanager
    def block(self, partition: int, offset: int) -> Iterator[dict[str, Any]]:
        """See ParameterStore."""
        with self.lock, super().block(partition, offset) as meta:
            self._told = True
            yield meta

    def pull(self, table: str, bags: Bags, now_s: int) -> Pulled:
        """See ParameterStore."""
        self._work()
        return super().pull(table, bags, now_s)

    def erase(self, table: str, keys: Keys) -> None:
        """See ParameterStore."""
        self._work()
        super().erase(table, keys)

    def expire_keys(self, keys: Keys, now_s: int) -> None:
        """See ParameterStore."""
        self._work()
        super().expire_keys(keys, now_s)

    def commit(self, *args: Any, **fields: Any) -> Any:
        """See ParameterStore."""
        self._told = False
        return super().commit(*args, **fields)

    def close(self) -> None:
        """See ParameterStore. The servers go back to the last commit, if there was work since."""
        super().close()
        for host in self._flight_hosts:
            host.close()

    def _work(self) -> None:
        with self.lock:
            self._flight_head.begun()
            if not self._told:
                self._flight_head.work()
                self._told = True


class _Head:
    """The head, in another process. What it says of a block's begin or end is waited for with what is asked next."""

    def __init__(self, connection: Connection, backend: FlightBackend) -> None:
        self._connection = connection
        self._backend = backend

    def open(self, spec: StoreSpec, partitions: Collection[int] | None) -> Mapping[str, Any]:
        """Begin the session; what the head says."""
        header = {
            "spec": spec.encode().decode(),
            "name": f"process {os.getpid()} on {socket.gethostname()}",
            "partitions": None if partitions is None else sorted(partitions),
        }
        opened = self._connection.call("open", header)
        self._connection.pulse["session"] = opened.header["session"]
        self.manifest = manifest_in(opened)
        self.dense = opened.arrays[0].tobytes() if opened.arrays else None
        self._ended = int(opened.header["ended"])  # blocks, when rows could last be read
        self._end: Pending | None = None
        return opened.header

    def work(self) -> None:
        """Something outside of blocks is about to be changed."""
        self._connection.call("work", {})

    def begin(self, partition: int, offset: int) -> None:
        # If it is refused, what follows on this connection may still be done; the store is dropped then, and all of
        # it undone. Hosts are others: before they are asked, ``begun``.
        self._connection.ask("begin", {"partition": partition, "offset": offset})

    def begun(self) -> None:
        """Wait until it has said that a block may begin: no commit is under way then."""
        self._connection.settle()

    def end(self, partition: int, position: int, meta: Mapping[str, Any]) -> None:
        header = {"partition": partition, "position": position, "meta": dict(meta)}
        self._end = self._connection.ask("end", header)

    def unseen(self, example_keys: Keys, now_s: int) -> Mask:
        return self._connection.call("unseen", {"now_s": now_s}, example_keys).arrays[0]

    def expire(self, now_s: int, budget: int) -> None:
        self._connection.call("expire_seen", {"now_s": now_s, "budget": budget})

    def expired(self) -> None:
        self._connection.call("expired", {})

    def commit(
        self,
        positions: Mapping[int, int],
        dense: bytes | None,
        dense_values: bytes | None,
        now_us: int,
        meta: Mapping[str, Any],
        arrivals: npt.NDArray[np.int64],
    ) -> tuple[Sequence[int], bytes | None]:
        if self._end:
            self._ended = int(self._end.answer().header["ended"])
        header = {
            "positions": {str(partition): int(offset) for partition, offset in positions.items()},
            "dense": dense is not None,
            "dense_values": dense_values is not None,
            "now_us": now_us,
            "meta": dict(meta),
            "ended": self._ended,
        }
        arrays = [as_array(data) for data in (dense, dense_values) if data is not None]
        committed = self._connection.call("commit", header, *arrays, arrivals)
        self.manifest = manifest_in(committed)
        self.dense = self.dense if dense is None else dense
        return committed.header["before"], dense_values if committed.header["published"] else None

    @property
    def memory_bytes(self) -> int:
        return int(self._connection.call("head_figures", {}).header["memory_bytes"])

    def changed(self, shard: int, since_epoch: int) -> Changed | None:
        return self._backend.changed(shard, since_epoch)

    def close(self) -> None:
        with suppress(BackendError, ValueError):
            if not self._connection.broken:
                self._connection.call("close", {})
        self._connection.close()


class _Host:
    """Shards, in another process."""

    def __init__(self, address: str, generation: int, spec: StoreSpec) -> None:
        self._connection = Connection(address)
        self._generation = generation
        self._dtype = spec.sync_dtype

    def pull(self, table: str, bags: Bags, now_s: int, pooled: bool) -> Asked[tuple[Floats, int]]:
        def read(message: Message) -> tuple[Floats, int]:
            return message.arrays[0], message.header["pull"]

        return self._ask(read, "pull", bags.keys, bags.offsets, table=table, now_s=now_s, pooled=pooled)

    def push(self, pulls: int, gradients: Floats, rate: float) -> None:
        self._ask(_nothing, "push", gradients, pull=pulls, rate=float(rate))

    def settle(self) -> None:
        self._connection.settle()

    def lookup(self, table: str, bags: Bags, pooled: bool) -> Asked[Floats]:
        return self._ask(_array, "lookup", bags.keys, bags.offsets, table=table, pooled=pooled)

    def known(self, table: str, keys: Keys) -> Asked[Mask]:
        return self._ask(_array, "known", keys, table=table)

    def update_counts(self, table: str, keys: Keys) -> Asked[Counts]:
        return self._ask(_array, "update_counts", keys, table=table)

    def erase(self, table: str, keys: Keys) -> None:
        self._ask(_nothing, "erase", keys, table=table)

    def expire_keys(self, keys: Keys, now_s: int) -> None:
        self._ask(_nothing, "expire_keys", keys, now_s=now_s)

    def expire(self, now_s: int, budget: int) -> Asked[int]:
        return self._ask(lambda message: int(message.header["count"]), "expire", now_s=now_s, budget=budget)

    def events(self, epochs: Sequence[int]) -> Asked[dict[int, dict[str, TableChange]]]:
        return self._ask(events_of, "events", dtype=self._dtype, epochs=list(epochs))

    def figures(self) -> Asked[Figures]:
        return self._ask(lambda m: Figures(m.header["rows"], m.header["memory_bytes"]), "figures")

    def close(self) -> None:
        """End the connection."""
        self._connection.close()

    def _ask(self, read: Callable[[Message], T], method: str, *arrays: Any, **header: Any) -> Asked[T]:
        pending = self._connection.ask(method, {"generation": self._generation, **header}, *arrays)
        return lambda: read(pending.answer())


def _array(message: Message) -> Any:
    return message.arrays[0]


def _nothing(message: Message) -> None:
    return None
