"""One shard as a log in an ordered key-value transaction: a base, the deltas after it, and their folding."""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from monobeam.native import NONE, Table
from monobeam.store import chunk
from monobeam.store.changes import NO_KEYS, Change, merge
from monobeam.store.chunk import TableChange

_LAYOUT = struct.Struct(">I")
_SHARD = struct.Struct(">IH")
_EPOCH = struct.Struct(">Q")
_NUMBER = struct.Struct(">I")
_STATE = struct.Struct("<4Q")
_NEVER = 2**64 - 1
_READ_COST = 4096


class State(NamedTuple):
    """Deltas hold every change after ``horizon``; the base, all rows as of ``folded``; delta bytes count from there."""

    horizon: int
    folded: int
    base_bytes: int
    delta_bytes: int


class ShardLog:
    """A shard's part of an open LMDB transaction; tables are numbers here.

    Keys: S layout shard (state), B layout shard folded number (base chunk), D layout shard epoch number (delta chunk);
    big endian, so that they sort by epoch and number. A layout is one way to cut the store into shards: while it is cut
    anew there are two.
    """

    def __init__(self, txn: Any, layout: int, shard: int) -> None:
        self.txn = txn
        self._shard = _SHARD.pack(layout, shard)

    def state(self) -> State:
        """Where base and deltas stand."""
        return State(*_STATE.unpack(self.txn.get(b"S" + self._shard)))

    def set_state(self, state: State) -> None:
        """Write the state."""
        self.txn.put(b"S" + self._shard, _STATE.pack(*state))

    def append(self, epoch: int, tables: Mapping[int, Change]) -> int:
        """Write what an epoch changed (nothing, where it changed nothing); the number of bytes."""
        chunks = (data for number, change in sorted(tables.items()) for data in chunk.encode(number, change))
        written = 0
        for number, data in enumerate(chunks):
            self.txn.put(b"D" + self._shard + _EPOCH.pack(epoch) + _NUMBER.pack(number), data)
            written += len(data)
        state = self.state()
        self.set_state(state._replace(delta_bytes=state.delta_bytes + written))
        return written

    def put_base(self, folded: int, number: int, data: memoryview) -> None:
        """Write a chunk of the base as of ``folded``."""
        self.txn.put(b"B" + self._shard + _EPOCH.pack(folded) + _NUMBER.pack(number), data)

    def base(self, folded: int) -> list[bytes]:
        """The keys of the base chunks as of ``folded``."""
        return list(self._keys(b"B", folded, folded))

    def deltas(self, after: int, until: int) -> list[bytes]:
        """The keys of the delta chunks with ``after < epoch <= until``, oldest first."""
        return list(self._keys(b"D", after + 1, until))

    def read(self, key: bytes) -> TableChange:
        """The change under a key; views that end with the transaction or its next write."""
        return chunk.decode(key, self.txn.get(key))

    def since(self, epoch: int, until: int) -> dict[int, Change]:
        """What the deltas with ``epoch < number <= until`` changed altogether."""
        by_table: dict[int, list[Change]] = {}
        for key in self.deltas(epoch, until):
            number, change = self.read(key)
            by_table.setdefault(number, []).append(change)
        return {number: merge(changes) for number, changes in by_table.items()}

    def drop_unfinished_base(self) -> None:
        """Remove base chunks of a folding that never finished."""
        folded = self.state().folded
        for key in list(self._keys(b"B", folded + 1, _NEVER)):
            self.txn.delete(key)

    def finish_fold(self, target: int, base_bytes: int, folded_bytes: int, keep_epochs: int) -> None:
        """Make ``target`` the base; remove the old one, and folded deltas beyond the newest ``keep_epochs``."""
        state = self.state()
        for key in self.base(state.folded):
            self.txn.delete(key)
        self.set_state(State(state.horizon, target, base_bytes, state.delta_bytes - folded_bytes))
        self.trim(keep_epochs)

    def trim(self, keep_epochs: int) -> None:
        """Remove folded deltas beyond the newest ``keep_epochs``."""
        state = self.state()
        epochs = sorted({epoch_of(key) for key in self.deltas(state.horizon, _NEVER)})
        spare = [epoch for epoch in epochs[: max(0, len(epochs) - keep_epochs)] if epoch <= state.folded]
        if not spare:
            return
        for key in self.deltas(state.horizon, spare[-1]):
            self.txn.delete(key)
        self.set_state(state._replace(horizon=spare[-1]))

    def _keys(self, kind: bytes, first: int, last: int) -> Iterator[bytes]:
        if last < first:
            return
        start, stop = (kind + self._shard + _EPOCH.pack(epoch) for epoch in (first, last))
        with self.txn.cursor() as cursor:
            found = cursor.set_range(start)
            while found:
                key = bytes(cursor.key())
                if key[: len(stop)] > stop:
                    return
                yield key
                found = cursor.next()


def keys_of_layout(txn: Any, layout: int, most: int) -> list[bytes]:
    """Some keys of a layout; none when there are none."""
    found: list[bytes] = []
    with txn.cursor() as cursor:
        for kind in (b"B", b"D", b"S"):
            prefix = kind + _LAYOUT.pack(layout)
            more = cursor.set_range(prefix)
            while more and len(found) < most and bytes(cursor.key()).startswith(prefix):
                found.append(bytes(cursor.key()))
                more = cursor.next()
    return found


def place_of(key: bytes) -> tuple[int, int]:
    """The layout and the shard in the key of a state or a chunk."""
    layout, shard = _SHARD.unpack_from(key, 1)
    return int(layout), int(shard)


def epoch_of(key: bytes) -> int:
    """The epoch in the key of a base or delta chunk."""
    return int(_EPOCH.unpack_from(key, 1 + _SHARD.size)[0])


class LiveRows:
    """Base and deltas up to an epoch, as chunks of live rows: every id once, with its last contents.

    Reads the newest first and remembers the ids of deltas (alone: no two base chunks share one); so every piece of the
    work is proportional to what it reads, and there is nothing to prepare.
    """

    def __init__(self, log: ShardLog, until: int) -> None:
        folded = log.state().folded
        self._deltas = log.deltas(folded, until)
        self._base = log.base(folded)[::-1]
        self._later: defaultdict[int, Table] = defaultdict(lambda: Table(0, "sgd", {}, 0, 0.0))

    def __len__(self) -> int:
        """How many chunks are not read yet."""
        return len(self._deltas) + len(self._base)

    @property
    def done(self) -> bool:
        """Whether every chunk has been read."""
        return not len(self)

    def read(self, log: ShardLog) -> TableChange:
        """The live rows of the next chunk (copies); in any transaction: chunks stay until a fold is finished."""
        of_delta = bool(self._deltas)
        number, change = log.read(self._deltas.pop() if of_delta else self._base.pop())
        later = self._later[number]
        ids = np.ascontiguousarray(change.keys)
        live = later.find(ids) == NONE
        if of_delta:
            later.find_or_insert(ids, 0)
            later.find_or_insert(np.ascontiguousarray(change.deletes), 0)
        return TableChange(number, Change(ids[live], change.rows[live], NO_KEYS))


class Fold:
    """Folds deltas into a new base, a piece with every commit, so that no commit waits for all of it."""

    def __init__(self, log: ShardLog, target: int) -> None:
        self._live = LiveRows(log, target)
        self._target = target
        self._folded_bytes = log.state().delta_bytes
        self._pending: dict[int, list[Change]] = {}
        self._written = 0
        self._base_bytes = 0

    def next_chunks(self, log: ShardLog, budget: int) -> list[memoryview]:
        """Chunks of the new base, from reading about ``budget`` bytes of the old one and of deltas."""
        chunks: list[memoryview] = []
        while budget > 0 and not self._live.done:
            number, change = self._live.read(log)
            budget -= change.nbytes + _READ_COST
            waiting = self._pending.setdefault(number, [])
            waiting.append(change)
            if sum(part.nbytes for part in waiting) >= chunk.CHUNK_BYTES:
                chunks.append(self._take(number))
        if self._live.done:
            chunks += [self._take(number) for number, waiting in sorted(self._pending.items()) if waiting]
        return chunks

    def write(self, log: ShardLog, chunks: list[memoryview], keep_epochs: int) -> None:
        """Put chunks of the new base; with the last of them it takes the old one's place."""
        if not self._written:
            log.drop_unfinished_base()
        for number, data in enumerate(chunks, self._written):
            log.put_base(self._target, number, data)
        if self._live.done:
            base_bytes = self._base_bytes + sum(map(len, chunks))
            log.finish_fold(self._target, base_bytes, self._folded_bytes, keep_epochs)

    def written(self, chunks: list[memoryview]) -> bool:
        """Note that the transaction with these chunks was committed; whether the fold is finished."""
        self._written += len(chunks)
        self._base_bytes += sum(map(len, chunks))
        return self._live.done

    def _take(self, number: int) -> memoryview:
        parts = self._pending.pop(number)
        keys = np.concatenate([part.keys for part in parts])
        rows = np.concatenate([part.rows for part in parts])
        return chunk.encode_whole(number, Change(keys, rows, NO_KEYS))
