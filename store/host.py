"""Some shards of a store in one process: their tables, and what happened to them since the last commit.

What a host says may still be on its way, from another process: call it to have it. Several hosts can be asked so at
once, without threads. Here, in process, it is there at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from monobeam.native import Table
from monobeam.store.backend import Backend, ShardCommit
from monobeam.store.bags import Bags, Floats, Keys, Mask, pool, shard_of
from monobeam.store.changes import values_of
from monobeam.store.room import TableRoom
from monobeam.store.shard import Pull, Shard, known, lookup, update_counts
from monobeam.store.spec import StoreSpec
from monobeam.store.sync import TableChange

T = TypeVar("T")
_Value = TypeVar("_Value", np.bool_, np.int64)
Asked = Callable[[], T]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Figures:
    """``rows``: in the tables that replicas have; ``memory_bytes``: of all tables."""

    rows: int
    memory_bytes: int


class ShardHost:
    """The tables of some shards, by number; ids of other shards are refused with ValueError.

    Results do not depend on how many of the shards it has, bit for bit. For several threads at once.
    """

    def __init__(self, spec: StoreSpec, numbers: Sequence[int], room: TableRoom) -> None:
        self.shards: Mapping[int, Shard] = {number: Shard(spec, room) for number in numbers}
        self.spec = spec
        self._tables = {table.name: table for table in spec.tables}
        self._prepared: Mapping[int, ShardCommit] = {}
        self._committed: dict[int, ShardCommit] = {}  # the last one of each shard, until its events were had

    def load(self, backend: Backend) -> None:
        """Take over what the last commit made durable."""
        for number, shard in self.shards.items():
            manifest, blocks = backend.load(number)
            for block in blocks:
                shard.restore(block)
            shard.epoch = 0 if manifest is None else manifest.epochs[number]

    def pull(self, table: str, bags: Bags, now_s: int, pooled: bool) -> Asked[tuple[Floats, Sequence[Pull]]]:
        """Sums of bags, float32[M, dim], in order, or the rows of all ids, float32[N, dim]; and where gradients go."""
        everywhere = self._places(bags.keys)
        if len(everywhere) == 1:
            (shard,) = self.shards.values()
            values, pull = shard.pull(table, bags, now_s, pooled)
            return lambda: (values, [pull])
        rows = np.empty((len(bags.keys), self._tables[table].dim), np.float32)
        pulls = []
        for shard, places in zip(self.shards.values(), everywhere, strict=True):
            rows[places], pull = shard.pull(table, bags.at(places), now_s, False)
            pulls.append(pull)
        found = pool(rows, bags.offsets) if pooled else rows
        return lambda: (found, pulls)

    def push(self, pulls: Sequence[Pull], gradients: Floats, rate: float) -> None:
        """One optimizer step for every row that was pulled; ``gradients``: float32[M, dim], one for each bag."""
        for shard, pull in zip(self.shards.values(), pulls, strict=True):
            shard.push(pull, gradients, rate)

    def settle(self) -> None:
        """Return when everything that was pushed is done: here it always is."""

    def lookup(self, table: str, bags: Bags, pooled: bool) -> Asked[Floats]:
        """Sums of bags or rows of ids; making and touching none; missing rows count as zeros."""
        everywhere = self._places(bags.keys)
        if len(everywhere) == 1 and pooled:
            (shard,) = self.shards.values()
            sums = np.asarray(shard.tables[table].lookup_pooled(bags.keys, bags.offsets))
            return lambda: sums
        rows = np.empty((len(bags.keys), self._tables[table].dim), np.float32)
        for shard, places in zip(self.shards.values(), everywhere, strict=True):
            rows[places] = lookup(shard.tables[table], bags.keys[places])
        found = pool(rows, bags.offsets) if pooled else rows
        return lambda: found

    def known(self, table: str, keys: Keys) -> Asked[Mask]:
        """Which ids, bool[N], have a row."""
        return self._each(table, keys, known, np.bool_)

    def update_counts(self, table: str, keys: Keys) -> Asked[Counts]:
        """How often the row of each id was updated, int64[N]; 0 for ids without one."""
        return self._each(table, keys, update_counts, np.int64)

    def erase(self, table: str, keys: Keys) -> None:
        """Drop the rows of ids, as far as there are any."""
        for shard, places in zip(self.shards.values(), self._places(keys), strict=True):
            shard.erase(table, keys[places])

    def expire_keys(self, keys: Keys, now_s: int) -> None:
        """Drop the rows of these ids that are too old, in every table."""
        for shard, places in zip(self.shards.values(), self._places(keys), strict=True):
            shard.expire_keys(keys[places], now_s)

    def expire(self, now_s: int, budget: int) -> Asked[int]:
        """Drop rows that are too old, in up to ``budget`` buckets per table; the number of rows."""
        count = sum(shard.expire(now_s, budget) for shard in self.shards.values())
        return lambda: count

    def changes(self, epochs: Sequence[int]) -> dict[int, ShardCommit]:
        """What is to be committed of each shard, as epochs of all shards of the store."""
        commits = {
            number: ShardCommit(epochs[number], shard.changes(), shard.live_bytes)
            for number, shard in self.shards.items()
        }
        self._prepared = commits
        return commits

    def committed(self, epochs: Sequence[int]) -> None:
        """What ``changes`` gave is durable."""
        for number, shard in self.shards.items():
            shard.committed(epochs[number])
        self._committed, self._prepared = dict(self._prepared), {}

    @property
    def epochs(self) -> dict[int, int]:
        """The last epoch of each shard here; 0 before the first."""
        return {number: shard.epoch for number, shard in self.shards.items()}

    def events(self, epochs: Sequence[int]) -> Asked[dict[int, dict[str, TableChange]]]:
        """What the commit of these epochs changed for replicas, by shard and table; to be had once.

        Nothing of shards that have been committed again since.
        """
        last = self._committed
        mine = [number for number, commit in list(last.items()) if commit.epoch == epochs[number]]
        had = {number: last.pop(number, None) for number in mine}
        changes = {number: commit.tables for number, commit in had.items() if commit is not None}
        events = {
            number: {
                name: TableChange(change.keys, values_of(change.rows, self._tables[name].dim), change.deletes)
                for name, change in tables.items()
                if self._tables[name].synced
            }
            for number, tables in changes.items()
        }
        return lambda: events

    def figures(self) -> Asked[Figures]:
        """How large it is."""
        tables = [(name, table) for shard in self.shards.values() for name, table in shard.tables.items()]
        rows = sum(len(table) for name, table in tables if self._tables[name].synced)
        found = Figures(rows, sum(int(table.memory_bytes) for _, table in tables))
        return lambda: found

    def _each(
        self, table: str, keys: Keys, say: Callable[[Table, Keys], npt.NDArray[_Value]], dtype: type[_Value]
    ) -> Asked[npt.NDArray[_Value]]:
        found = np.empty(len(keys), dtype)
        for shard, places in zip(self.shards.values(), self._places(keys), strict=True):
            found[places] = say(shard.tables[table], keys[places])
        return lambda: found

    def _places(self, keys: Keys) -> list[npt.NDArray[np.intp]]:
        """For each shard, where its ids are."""
        if self.spec.shards == 1:
            return [np.arange(len(keys))]
        owners = shard_of(keys, self.spec.shards)
        places = [np.flatnonzero(owners == number) for number in self.shards]
        if sum(map(len, places)) < len(keys):
            stray = int(np.flatnonzero(~np.isin(owners, list(self.shards)))[0])
            raise ValueError(f"id {keys[stray]} is of shard {owners[stray]}: here are {list(self.shards)}")
        return places
