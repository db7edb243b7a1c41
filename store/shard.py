"""One shard of a store: its native tables, and what happened to them since the last commit."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from monobeam.native import NONE, Table
from monobeam.store.backend import Block
from monobeam.store.bags import Bags, Floats, Keys, Mask
from monobeam.store.changes import Change, updates_of
from monobeam.store.room import TableRoom
from monobeam.store.spec import StoreSpec, TableSpec

Handles = npt.NDArray[np.uint32]
_EXPORTED_AT_ONCE = 1024


def new_table(spec: TableSpec, room: TableRoom) -> Table:
    """An empty native table as the specification says; TableFullError where there is no room for the first page."""
    with room.table(spec.name):
        table = Table(
            spec.dim,
            spec.optimizer,
            dict(spec.hyper),
            spec.seed,
            spec.init_scale,
            row_format=spec.row_format,
            room=room.shared,
        )
    for slot, policy in spec.policies.items():
        expire_s, pending_s = policy.expire_us // 1_000_000, policy.pending_us // 1_000_000
        table.set_policy(slot, policy.admit_count, policy.admit_probability, expire_s, pending_s)
    return table


@dataclass(frozen=True, eq=False)
class Pull:
    """The rows of bags that were pulled at ``now_s``, as of some number of erasures in their table."""

    table: str
    bags: Bags
    now_s: int
    handles: Handles
    erasures: int


class Shard:
    """The rows whose ids belong to one shard, in one table per specification; for several threads at once."""

    def __init__(self, spec: StoreSpec, room: TableRoom) -> None:
        self.tables: Mapping[str, Table] = {table.name: new_table(table, room) for table in spec.tables}
        self.epoch = 0
        self._room = room
        self._lock = threading.Lock()  # handles are good only as long as nobody erases
        self._erasures = dict.fromkeys(self.tables, 0)

    @property
    def live_bytes(self) -> int:
        """Bytes of all ids and rows, as they are stored."""
        return sum(len(table) * (8 + int(table.row_bytes)) for table in self.tables.values())

    def restore(self, block: Block) -> None:
        """Take over committed rows."""
        with self._room.table(block.table):
            self.tables[block.table].import_rows(block.keys, block.rows)

    def pull(self, table: str, bags: Bags, now_s: int, pooled: bool) -> tuple[Floats, Pull]:
        """The rows of ids, float32[N, dim], or the sums of bags, float32[M, dim], and where their gradients go.

        Rows that are missing and admitted are made, or TableFullError.
        """
        native = self.tables[table]
        with self._lock, self._room.table(table):
            handles = native.find_or_insert(bags.keys, now_s)
            rows = native.gather_pooled(handles, bags.offsets) if pooled else native.gather(handles)
            return rows, Pull(table, bags, now_s, handles, self._erasures[table])

    def push(self, pull: Pull, gradients: Floats, rate: float) -> None:
        """One optimizer step for every row that was pulled, even if it was dropped and had to be made anew since."""
        native = self.tables[pull.table]
        with self._lock, self._room.table(pull.table):
            gone = self._erasures[pull.table] != pull.erasures
            handles = native.find_or_insert(pull.bags.keys, pull.now_s) if gone else pull.handles
            native.apply_pooled(handles, pull.bags.offsets, gradients, rate)

    def erase(self, table: str, keys: Keys) -> None:
        """Drop the rows of ids, as far as there are any."""
        self._erased(table, lambda native: native.erase(keys))

    def changes(self) -> dict[str, Change]:
        """What was touched and deleted since the last commit, in every table, sorted by id."""
        return {name: _change(table) for name, table in self.tables.items()}

    def committed(self, epoch: int) -> None:
        """The changes are durable as of this epoch."""
        for table in self.tables.values():
            table.clear_touched()
        self.epoch = epoch

    def expire(self, now_s: int, budget: int) -> int:
        """Drop rows unseen for longer than their policy says; looks at up to ``budget`` buckets of each table."""
        return sum(self._erased(name, lambda table: len(table.expire(now_s, budget))) for name in self.tables)

    def expire_keys(self, keys: Keys, now_s: int) -> None:
        """Drop those rows of these ids that ``expire`` would drop if it came to them."""
        for name in self.tables:
            self._erased(name, lambda table: table.expire_keys(keys, now_s))

    def _erased(self, name: str, erase: Callable[[Table], int]) -> int:
        with self._lock:
            count = erase(self.tables[name])
            self._erasures[name] += count
        return count


def _change(table: Table) -> Change:
    keys = table.touched()
    rows = np.empty((len(keys), table.row_bytes), np.uint8)  # large: numpy asks for huge pages, the table does not
    for start in range(0, len(keys), _EXPORTED_AT_ONCE):
        some = keys[start : start + _EXPORTED_AT_ONCE]
        rows[start : start + len(some)] = table.export_rows(some).reshape(len(some), table.row_bytes)
    return Change(keys, rows, table.expired())


def known(table: Table, keys: Keys) -> Mask:
    """Which ids, bool[N], have a row."""
    have: Mask = np.asarray(table.find(keys)) != NONE
    return have


def update_counts(table: Table, keys: Keys) -> npt.NDArray[np.int64]:
    """How often the row of each id was updated, int64[N]; 0 for ids without one."""
    counts, have = np.zeros(len(keys), np.int64), known(table, keys)
    rows = table.export_rows(keys[have]).reshape(-1, table.row_bytes)
    counts[have] = updates_of(rows)
    return counts


def lookup(table: Table, keys: Keys) -> Floats:
    """Rows float32[N, dim]; zeros for ids without one."""
    rows, _ = table.lookup(keys)
    return np.asarray(rows)
