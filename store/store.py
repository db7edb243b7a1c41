"""The parameter store of one process: all shards in its memory, durable in a backend that it owns."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from monobeam.store.backend import Backend, Changed, open_backend
from monobeam.store.bags import Keys, Mask
from monobeam.store.host import ShardHost
from monobeam.store.ledger import Ledger
from monobeam.store.manifest import Manifest
from monobeam.store.parameters import ParameterStore, Pulled
from monobeam.store.room import TableRoom
from monobeam.store.spec import StoreSpec


class Store(ParameterStore):
    """A store in this process. When ``commit`` raises, nothing is lost: it can be called again."""

    def __init__(self, spec: StoreSpec, backend: Backend) -> None:
        backend.own(range(spec.shards))
        try:
            room = TableRoom(spec.memory_limit, "store.memory_limit")
            self.host = ShardHost(spec, range(spec.shards), room)
            ledger = Ledger(spec, room)
            ledger.load(backend)
            self.host.load(backend)
        except BaseException:
            backend.close()
            raise
        super().__init__(spec, _Head(ledger, self.host, backend), [(range(spec.shards), self.host)])


class _Head:
    """The head of a store whose trainers are all in its process."""

    def __init__(self, ledger: Ledger, host: ShardHost, backend: Backend) -> None:
        self._ledger = ledger
        self._host = host
        self._backend = backend

    @property
    def manifest(self) -> Manifest:
        return self._ledger.manifest

    @property
    def dense(self) -> bytes | None:
        return self._ledger.dense

    @property
    def memory_bytes(self) -> int:
        return self._ledger.memory_bytes

    def begin(self, partition: int, offset: int) -> None:
        pass

    def end(self, partition: int, position: int, meta: Mapping[str, Any]) -> None:
        self._ledger.ended(partition, position, meta)

    def unseen(self, example_keys: Keys, now_s: int) -> Mask:
        return self._ledger.unseen(example_keys, now_s)

    def expire(self, now_s: int, budget: int) -> None:
        self._ledger.expire(now_s, budget)

    def expired(self) -> None:
        pass

    def commit(
        self,
        positions: Mapping[int, int],
        dense: bytes | None,
        dense_values: bytes | None,
        now_us: int,
        meta: Mapping[str, Any],
        arrivals: npt.NDArray[np.int64],
    ) -> tuple[Sequence[int], bytes | None]:
        before = self._ledger.manifest.epochs
        manifest = self._ledger.next(positions, dense_values is not None, now_us, meta)
        shards = self._host.changes(manifest.epochs)
        commit = self._ledger.commit(manifest, list(shards.values()), dense, dense_values)
        self._backend.commit(commit)
        self._ledger.committed(commit)
        self._host.committed(manifest.epochs)
        return before, dense_values

    def changed(self, shard: int, since_epoch: int) -> Changed | None:
        return self._backend.changed(shard, since_epoch)

    def close(self) -> None:
        self._backend.close()


def is_remote(uri: str) -> bool:
    """Whether the store at an address is in shard servers, and not in the process that opens it."""
    return uri.partition(":")[0] in ("flight", "flight+tls")


def open_store(spec: StoreSpec, uri: str, partitions: Collection[int] | None = None) -> ParameterStore:
    """The store at an address: in this process, or, at ``flight://HOST:PORT``, in shard servers.

    ``partitions``: of the examples log, that the caller trains on (None: all); shard servers may have several callers.
    """
    from monobeam.store.flight_store import FlightStore

    if is_remote(uri):
        return FlightStore(spec, uri, partitions)
    return Store(spec, open_backend(uri))


__all__ = ["ParameterStore", "Pulled", "Store", "is_remote", "open_store"]
