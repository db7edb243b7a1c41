"""Cutting an LMDB store into another number of shards, in steps of one small transaction each.

The rows of the last commit are written anew as the bases of a second layout; how far that is, is in the store (key R)
and moves in the same transaction as the rows. One transaction then makes the second layout the one in use, with a
manifest that has the new number. The first is removed in small steps; who reads meanwhile keeps the snapshot of before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from monobeam.store import chunk
from monobeam.store.backend import BackendError
from monobeam.store.bags import shard_of
from monobeam.store.changes import NO_KEYS, Change
from monobeam.store.environment import Environment
from monobeam.store.lmdb_contents import MANIFEST, Contents, set_layout
from monobeam.store.manifest import Manifest
from monobeam.store.shard_log import LiveRows, ShardLog, State, keys_of_layout
from monobeam.store.storage import Progress

RESHARDING = b"R"
STEP_BYTES = 32 << 20
_REMOVED_AT_ONCE = 256


@dataclass(frozen=True)
class Plan:
    """What is being written, or (with 0 shards) is only to be removed.

    ``epochs``: of the commit that is copied; ``shard``: the old shard that comes next, ``read`` of whose chunks have
    been; ``chunks`` and ``nbytes``: what has been written, by new shard.
    """

    layout: int
    shards: int = 0
    epochs: Sequence[int] = ()
    shard: int = 0
    read: int = 0
    chunks: Sequence[int] = ()
    nbytes: Sequence[int] = ()

    @property
    def epoch(self) -> int:
        """The epoch of all new shards."""
        return max(self.epochs) + 1

    def encode(self) -> bytes:
        """As JSON text."""
        return json.dumps(asdict(self)).encode()


def plan_in(txn: Any) -> Plan | None:
    """What an earlier resharding has left to do."""
    data = txn.get(RESHARDING)
    return None if data is None else Plan(**json.loads(bytes(data)))


class Resharding:
    """For the owner of a store that holds a commit."""

    def __init__(self, uri: str, environment: Environment, step_bytes: int = STEP_BYTES) -> None:
        self._uri = uri
        self._environment = environment
        self._step_bytes = step_bytes

    def run(self, shards: int, progress: Progress) -> None:
        """Bring the store to so many shards, from wherever an earlier run left it."""
        with self._environment.read() as txn:
            contents = Contents(self._uri, txn)
            manifest, layout, plan = contents.manifest(), contents.layout(), plan_in(txn)
        if manifest is None:
            raise BackendError(f"{self._uri}: holds no commit yet; its first trainer says how many shards it has")
        if plan is None or plan.shards != shards or tuple(plan.epochs) != manifest.epochs:
            self.clean()  # of another number, of a commit that is not the last any more, or finished
            plan = Plan(layout + 1, shards, manifest.epochs, chunks=[0] * shards, nbytes=[0] * shards)
        if len(manifest.epochs) != shards:
            self._flip(self._copy(plan, progress), layout, manifest)
        progress(1.0)
        self.clean()

    def clean(self) -> None:
        """Remove what an earlier resharding left over."""
        with self._environment.read() as txn:
            plan = plan_in(txn)
        if plan is None:
            return
        self._environment.forget_dead_readers()
        while self._environment.write(lambda txn: _remove_some(txn, plan.layout)):
            pass
        self._environment.write(lambda txn: txn.delete(RESHARDING))

    def _copy(self, plan: Plan, progress: Progress) -> Plan:
        with self._environment.read() as txn:
            sizes = [len(LiveRows(self._log(txn, shard), epoch)) for shard, epoch in enumerate(plan.epochs)]
        for shard in range(plan.shard, len(plan.epochs)):
            live = self._live(plan, shard)
            while not live.done:
                before = len(live)
                rows = self._read(live, shard)
                plan = self._write(replace(plan, shard=shard, read=plan.read + before - len(live)), rows)
                progress((sum(sizes[:shard]) + plan.read) / (sum(sizes) + 1))
            plan = replace(plan, shard=shard + 1, read=0)
        return plan

    def _live(self, plan: Plan, shard: int) -> LiveRows:
        """The rows of an old shard that have not been copied: what had been read is read again, for its ids."""
        with self._environment.read() as txn:
            log = self._log(txn, shard)
            live = LiveRows(log, plan.epochs[shard])
            for _ in range(plan.read):
                live.read(log)
        return live

    def _read(self, live: LiveRows, shard: int) -> Mapping[int, Change]:
        """Some of the rows, by table."""
        waiting: dict[int, list[Change]] = {}
        budget = self._step_bytes
        with self._environment.read() as txn:
            log = self._log(txn, shard)
            while budget > 0 and not live.done:
                table, change = live.read(log)
                waiting.setdefault(table, []).append(change)
                budget -= max(1, change.nbytes)
        return {table: _joined(changes) for table, changes in waiting.items()}

    def _write(self, plan: Plan, rows: Mapping[int, Change]) -> Plan:
        """Add rows to the bases of their new shards; the plan that goes on from there."""
        chunks, nbytes = list(plan.chunks), list(plan.nbytes)
        puts = []
        for table, change in rows.items():
            for shard, part in _cut(change, plan.shards):
                for data in chunk.encode(table, part):
                    puts.append((shard, chunks[shard], data))
                    chunks[shard] += 1
                    nbytes[shard] += len(data)
        after = replace(plan, chunks=chunks, nbytes=nbytes)

        def write(txn: Any) -> None:
            for shard, number, data in puts:
                ShardLog(txn, plan.layout, shard).put_base(plan.epoch, number, data)
            txn.put(RESHARDING, after.encode())

        self._environment.write(write)
        return after

    def _flip(self, plan: Plan, layout: int, manifest: Manifest) -> None:
        """Make the new layout the one in use."""
        fingerprint = {**manifest.fingerprint, "shards": plan.shards}
        resharded = replace(manifest, fingerprint=fingerprint, epochs=(plan.epoch,) * plan.shards)

        def write(txn: Any) -> None:
            for shard, nbytes in enumerate(plan.nbytes):
                ShardLog(txn, plan.layout, shard).set_state(State(plan.epoch, plan.epoch, nbytes, 0))
            txn.put(MANIFEST, resharded.encode())
            set_layout(txn, plan.layout)
            txn.put(RESHARDING, Plan(layout).encode())

        self._environment.write(write)

    def _log(self, txn: Any, shard: int) -> ShardLog:
        return Contents(self._uri, txn).log(shard)


def _joined(changes: Sequence[Change]) -> Change:
    """Rows of different ids, together."""
    keys, rows = [change.keys for change in changes], [change.rows for change in changes]
    return Change(np.concatenate(keys), np.concatenate(rows), NO_KEYS)


def _cut(change: Change, shards: int) -> list[tuple[int, Change]]:
    """The rows of each shard that has some."""
    owners = shard_of(change.keys, shards)
    order = np.argsort(owners, kind="stable")
    found, starts = np.unique(owners[order], return_index=True)
    parts = np.split(order, starts[1:])
    return [
        (int(shard), Change(change.keys[part], change.rows[part], NO_KEYS))
        for shard, part in zip(found, parts, strict=False)
    ]


def _remove_some(txn: Any, layout: int) -> int:
    """Remove some values of a layout; how many."""
    keys = keys_of_layout(txn, layout, _REMOVED_AT_ONCE)
    for key in keys:
        txn.delete(key)
    return len(keys)
