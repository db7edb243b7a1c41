"""The parameter store as trainers see it, wherever its shards are: pull rows, push gradients, commit all of it.

One head (positions, example keys, commits) and one or several hosts (rows). Both are in this process (``Store``) or are
asked in others (``FlightStore``), by the same code.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from monobeam.store import dense as dense_codec
from monobeam.store.backend import Changed
from monobeam.store.bags import Bags, Floats, Keys, Mask, Offsets, pool, shard_of
from monobeam.store.host import Asked, Counts, Figures
from monobeam.store.manifest import Manifest
from monobeam.store.publishing import Announcement, events
from monobeam.store.spec import StoreSpec
from monobeam.store.sync import SyncEvent, TableChange

ALL = 2**62  # buckets: more than there can be


class Head(Protocol):
    """What is one for the whole store."""

    @property
    def manifest(self) -> Manifest:
        """The last commit."""

    @property
    def dense(self) -> bytes | None:
        """The trainer's own bytes in it."""

    def begin(self, partition: int, offset: int) -> None:
        """A block of the examples log is about to be trained on."""

    def end(self, partition: int, position: int, meta: Mapping[str, Any]) -> None:
        """It was; the next one is at ``position``."""

    def unseen(self, example_keys: Keys, now_s: int) -> Mask:
        """Which examples were not trained on before; marks them as seen."""

    def expire(self, now_s: int, budget: int) -> None:
        """Forget example keys that are too old; the hosts are about to drop rows that are."""

    def expired(self) -> None:
        """They have."""

    def commit(
        self,
        positions: Mapping[int, int],
        dense: bytes | None,
        dense_values: bytes | None,
        now_us: int,
        meta: Mapping[str, Any],
        arrivals: npt.NDArray[np.int64],
    ) -> tuple[Sequence[int], bytes | None]:
        """Make all of it durable; ``manifest`` and ``dense`` are then those of the commit.

        The epochs before it, and ``dense_values``, or None if newer ones have been published.
        """

    def changed(self, shard: int, since_epoch: int) -> Changed | None:
        """What commits changed in a shard since an epoch."""

    @property
    def memory_bytes(self) -> int:
        """Bytes held by example keys."""

    def close(self) -> None:
        """Give it back, without a commit."""


class Host(Protocol):
    """Shards in one process; see ``ShardHost``."""

    def pull(self, table: str, bags: Bags, now_s: int, pooled: bool) -> Asked[tuple[Floats, Any]]: ...  # noqa: D102
    def push(self, pulls: Any, gradients: Floats, rate: float) -> None: ...  # noqa: D102
    def settle(self) -> None: ...  # noqa: D102
    def lookup(self, table: str, bags: Bags, pooled: bool) -> Asked[Floats]: ...  # noqa: D102
    def known(self, table: str, keys: Keys) -> Asked[Mask]: ...  # noqa: D102
    def update_counts(self, table: str, keys: Keys) -> Asked[Counts]: ...  # noqa: D102
    def erase(self, table: str, keys: Keys) -> None: ...  # noqa: D102
    def expire_keys(self, keys: Keys, now_s: int) -> None: ...  # noqa: D102
    def expire(self, now_s: int, budget: int) -> Asked[int]: ...  # noqa: D102
    def events(self, epochs: Sequence[int]) -> Asked[dict[int, dict[str, TableChange]]]: ...  # noqa: D102
    def figures(self) -> Asked[Figures]: ...  # noqa: D102


class Part(NamedTuple):
    """What one host gave for a pull: its own mark of it, and which of the bags have ids there (None: all are its)."""

    pulls: Any
    bags: npt.NDArray[np.intp] | None


@dataclass(frozen=True, eq=False)
class Pulled:
    """Pooled rows, float32[M, dim], and where their gradients go."""

    table: str
    pooled: Floats
    parts: Sequence[Part]


class ParameterStore:
    """All rows of a model as of its last commit and what was pushed since.

    Nothing is durable before ``commit`` returns. Every method takes ``lock``; ``block`` holds it around a train step:
    commits fall between steps. The results do not depend on the number of shards or servers, bit for bit.
    Whatever makes rows or remembers examples raises TableFullError where ``memory_limit`` leaves no room.
    """

    def __init__(self, spec: StoreSpec, head: Head, hosts: Sequence[tuple[Sequence[int], Host]]) -> None:
        self.spec = spec
        self.lock = threading.RLock()
        self._head = head
        self._hosts = [host for _, host in hosts]
        self._host_of = np.empty(spec.shards, np.intp)
        for index, (numbers, _) in enumerate(hosts):
            self._host_of[list(numbers)] = index
        self._tables = {table.name: table for table in spec.tables}

    @contextmanager
    def block(self, partition: int, offset: int) -> Iterator[dict[str, Any]]:
        """Around the training on one block of the examples log; no commit falls into it.

        What is put into the dictionary is kept with the partition's position (``meta()["partitions"]``). After an
        exception the store is in doubt: close it.
        """
        with self.lock:
            meta: dict[str, Any] = {}
            self._head.begin(partition, offset)
            yield meta
            self._settle()
            self._head.end(partition, offset + 1, meta)

    def pull(self, table: str, bags: Bags, now_s: int) -> Pulled:
        """Sum of the rows of every bag, in order; rows that are missing and admitted are made. ``now_s``: seconds."""
        with self.lock:
            if len(self._hosts) == 1:
                pooled, pulls = self._hosts[0].pull(table, bags, now_s, True)()
                return Pulled(table, pooled, [Part(pulls, None)])
            everywhere, asked, have = self._places(bags.keys), [], []
            for host, places in zip(self._hosts, everywhere, strict=True):
                part = bags.at(places)
                some = np.flatnonzero(np.diff(part.offsets))
                offsets = np.append(part.offsets[some], len(places))
                asked.append(host.pull(table, Bags(part.keys, offsets), now_s, False))
                have.append(some)
            rows, parts = np.empty((len(bags.keys), self._tables[table].dim), np.float32), []
            for places, answer, some in zip(everywhere, asked, have, strict=True):
                rows[places], pulls = answer()
                parts.append(Part(pulls, some))
            return Pulled(table, pool(rows, bags.offsets), parts)

    def push(self, pulled: Pulled, gradients: Floats, learning_rate: float | None = None) -> None:
        """One optimizer step for every pulled row; ``gradients``: float32[M, dim], of the pooled rows."""
        if gradients.shape != pulled.pooled.shape:
            raise ValueError(f"gradients {gradients.shape} for pooled rows {pulled.pooled.shape}: must be alike")
        rate = self._tables[pulled.table].learning_rate if learning_rate is None else learning_rate
        with self.lock:
            for host, (pulls, some) in zip(self._hosts, pulled.parts, strict=True):
                host.push(pulls, gradients if some is None else gradients[some], rate)

    def lookup(self, table: str, bags: Bags) -> Floats:
        """Sum of the rows of every bag, float32[M, dim], making and touching none; missing rows count as zeros."""
        with self.lock:
            if len(self._hosts) == 1:
                return self._hosts[0].lookup(table, bags, True)()
            everywhere = self._places(bags.keys)
            asked = []
            for host, places in zip(self._hosts, everywhere, strict=True):
                asked.append(host.lookup(table, _single(bags.keys[places]), False))
            rows = np.empty((len(bags.keys), self._tables[table].dim), np.float32)
            for places, answer in zip(everywhere, asked, strict=True):
                rows[places] = answer()
            return pool(rows, bags.offsets)

    def known(self, table: str, keys: Keys) -> Mask:
        """Which ids, bool[N], have a row."""
        found = np.empty(len(keys), np.bool_)
        with self.lock:
            everywhere = self._places(keys)
            asked = [host.known(table, keys[p]) for host, p in zip(self._hosts, everywhere, strict=True)]
            for places, answer in zip(everywhere, asked, strict=True):
                found[places] = answer()
        return found

    def update_counts(self, table: str, keys: Keys) -> Counts:
        """How often the row of each id was updated, int64[N]; 0 for ids without one."""
        found = np.empty(len(keys), np.int64)
        with self.lock:
            everywhere = self._places(keys)
            asked = [host.update_counts(table, keys[p]) for host, p in zip(self._hosts, everywhere, strict=True)]
            for places, answer in zip(everywhere, asked, strict=True):
                found[places] = answer()
        return found

    def erase(self, table: str, keys: Keys) -> None:
        """Drop the rows of ids, as far as there are any."""
        with self.lock:
            for host, places in zip(self._hosts, self._places(keys), strict=True):
                host.erase(table, keys[places])

    def expire_keys(self, keys: Keys, now_s: int) -> None:
        """Drop the rows of these ids that are too old, in every table.

        Before ids are pulled, at times that never go back, this makes all that is pulled independent of when and how
        far ``expire`` sweeps.
        """
        with self.lock:
            for host, places in zip(self._hosts, self._places(keys), strict=True):
                host.expire_keys(keys[places], now_s)

    def expire(self, now_s: int, budget: int = ALL) -> int:
        """Drop rows and example keys that are too old, in up to ``budget`` buckets per table; the number of rows."""
        with self.lock:
            self._head.expire(now_s, budget)
            asked = [host.expire(now_s, budget) for host in self._hosts]
            count = sum(answer() for answer in asked)
            self._head.expired()
            return count

    def unseen(self, example_keys: Keys, now_s: int) -> Mask:
        """Which examples, bool[n], were not trained on before, repeats in the array included; marks them as seen."""
        with self.lock:
            return self._head.unseen(example_keys, now_s)

    def positions(self) -> dict[int, int]:
        """For every partition of the examples log the next offset to train on, as of the last commit."""
        return dict(self._head.manifest.positions)

    def meta(self) -> dict[str, Any]:
        """What the last commit said about itself."""
        return dict(self._head.manifest.meta)

    def dense(self) -> bytes | None:
        """The trainer's own bytes (dense weights, optimizer state) of the last commit that had some."""
        return self._head.dense

    def commit(
        self,
        positions: Mapping[int, int],
        dense: bytes | None,
        dense_values: Mapping[str, npt.NDArray[np.float32]] | None,
        arrivals: npt.NDArray[np.int64],
        now_us: int,
        meta: Mapping[str, Any] | None = None,
    ) -> list[SyncEvent]:
        """Make everything pushed and marked so far durable, at once, and say what changed: one event per shard.

        ``positions`` are added to the ones before; ``dense_values`` publishes weights for serving; ``arrivals`` ride in
        every event. There are none of shards whose server writes them. When it raises, nothing was committed, or
        (AwayError) all of it was, or none: ``positions`` of the store opened again tell which.
        """
        published = None if dense_values is None else dense_codec.encode(dense_values)
        with self.lock:
            self._settle()
            before, published = self._head.commit(positions, dense, published, now_us, meta or {}, arrivals)
            manifest = self._head.manifest
            asked = [host.events(manifest.epochs) for host in self._hosts]
            changes = {number: tables for answer in asked for number, tables in answer().items()}
        said = Announcement(now_us, manifest.dense_version, published, arrivals)
        return events(self.spec, before, manifest.epochs, changes, said)

    def changed(self, shard: int, since_epoch: int) -> Changed | None:
        """What commits changed in a shard since an epoch."""
        return self._head.changed(shard, since_epoch)

    @property
    def rows(self) -> int:
        """The number of rows in the tables that replicas have: without sightings of ids that have none."""
        return sum(figures.rows for figures in self._figures())

    @property
    def memory_bytes(self) -> int:
        """Bytes held by rows and example keys."""
        return sum(figures.memory_bytes for figures in self._figures()) + self._head.memory_bytes

    @property
    def epochs(self) -> tuple[int, ...]:
        """The last epoch of every shard; 0 before the first."""
        return self._head.manifest.epochs

    @property
    def dense_version(self) -> int:
        """How often dense weights were published."""
        return self._head.manifest.dense_version

    def close(self) -> None:
        """Give the store back, without a commit."""
        with self.lock:
            self._head.close()

    def _settle(self) -> None:
        for host in self._hosts:
            host.settle()

    def _figures(self) -> list[Figures]:
        with self.lock:
            asked = [host.figures() for host in self._hosts]
            return [answer() for answer in asked]

    def _places(self, keys: Keys) -> list[npt.NDArray[np.intp]]:
        """For each host, where its ids are."""
        if len(self._hosts) == 1:
            return [np.arange(len(keys))]
        owners = self._host_of[shard_of(keys, self.spec.shards).astype(np.intp)]
        return [np.flatnonzero(owners == index) for index in range(len(self._hosts))]


def _single(keys: Keys) -> Bags:
    """Every id in a bag of its own."""
    offsets: Offsets = np.arange(len(keys) + 1, dtype=np.int64)
    return Bags(keys, offsets)
