"""The cold store in LMDB: blocks of impressions, and a log-structured index from ids to their rows.

An id per key in LMDB's tree would copy a page for nearly every impression. So the index is a few sorted arrays, the
runs: every write adds one, and once there are FAN of one level they are merged into one of the next, as in a
log-structured merge tree (O'Neil et al. 1996).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lmdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from monobeam.join.cold import ColdWrite, Found, collected
from monobeam.native import hash_column

_SEED = 0x636F6C64
_ROW_BITS = 16
_ROW_MASK = (1 << _ROW_BITS) - 1
_BLOCK_ROWS = 1024
_FAN = 4
_MAX_MERGED = 1 << 22
_EXPIRED_AT_ONCE = 64
_MAP_BYTES = 1 << 40  # address space, not memory or disk
_MIN_MAP_BYTES = 1 << 20
_NUMBER = struct.Struct(">Q")
_UNTIL = struct.Struct(">qQ")
_SHARD = struct.Struct(">I")
_CLOCK = struct.Struct("<q")

U64 = npt.NDArray[np.uint64]


class _Run(NamedTuple):
    """What is known of a run without reading it."""

    number: int
    level: int
    until: int
    rows: int


_RUN = struct.Struct("<QqQ")


class LmdbCold:
    """A cold store in a directory; several processes may have it open, each of them once."""

    def __init__(self, directory: str | Path) -> None:
        Path(directory).mkdir(parents=True, exist_ok=True)
        self._env = _open(str(directory))
        names = ("blocks", "shapes", "expiry", "runs", "arrays", "later", "clocks")
        self._blocks, self._shapes, self._expiry, self._runs, self._arrays, self._later, self._clocks = (
            self._env.open_db(name.encode()) for name in names
        )
        self._schemas: dict[int, pa.Schema] = {}

    def close(self) -> None:
        """As ColdStore says."""
        self._env.close()

    def get(self, ids: pa.StringArray) -> list[pa.RecordBatch]:
        """As ColdStore says."""
        if not len(ids):
            return []
        hashes, places = np.unique(hash_column(ids, _SEED), return_index=True)
        with self._env.begin(buffers=True) as txn:
            hits, locations = self._locate(txn, hashes)
            wanted = dict(zip(locations.tolist(), places[hits].tolist(), strict=True))
            blocks: dict[int, list[int]] = {}
            for location in wanted:
                blocks.setdefault(location >> _ROW_BITS, []).append(location)
            found = []
            for number, members in blocks.items():
                schema, batch = self._block(txn, number)
                if batch is None:
                    continue
                known = batch.column("_id")
                for location in members:
                    row = location & _ROW_MASK
                    # Of two ids with one hash the newer hides the older, but never stands in for it.
                    if known[row].as_py() == ids[wanted[location]].as_py():
                        found.append(Found(schema, batch.slice(row, 1), [self._added(txn, location)]))
            return collected(found)

    def write(self, change: ColdWrite) -> None:
        """As ColdStore says."""
        with self._env.begin(write=True, buffers=True) as txn:
            self._add(txn, change)
            if change.impressions:
                self._put(txn, change)
            self._expire(txn, self._clock(txn, change))

    def _clock(self, txn: Any, change: ColdWrite) -> int:
        """Note how far the shard is; returns how far all are. Those of a join that had more of them are forgotten."""
        txn.put(_SHARD.pack(change.shard), _CLOCK.pack(change.clock_us), db=self._clocks)
        cursor = txn.cursor(self._clocks)
        while cursor.set_range(_SHARD.pack(change.shards)):
            cursor.delete()
        return min(int(_CLOCK.unpack(clock)[0]) for _, clock in txn.cursor(self._clocks))

    def _put(self, txn: Any, change: ColdWrite) -> None:
        number = self._next(txn, self._blocks)
        hashes, locations = [], []
        for whole, until in change.impressions:
            schema = self._schema_number(txn, whole.schema)
            for at in range(0, whole.num_rows, _BLOCK_ROWS):
                batch = whole.slice(at, _BLOCK_ROWS)
                data = _NUMBER.pack(schema) + batch.serialize().to_pybytes()
                txn.put(_NUMBER.pack(number), data, db=self._blocks, append=True)
                txn.put(_UNTIL.pack(until, number), b"", db=self._expiry)
                hashes.append(hash_column(batch.column("_id"), _SEED))
                locations.append(np.uint64(number << _ROW_BITS) + np.arange(batch.num_rows, dtype=np.uint64))
                number += 1
        until = max(until for _, until in change.impressions)
        self._put_run(txn, 0, until, np.concatenate(hashes), np.concatenate(locations))
        self._merge(txn)

    def _add(self, txn: Any, change: ColdWrite) -> None:
        if not change.actions:
            return
        hashes = hash_column(pa.array([id_ for id_, _ in change.actions], pa.string()), _SEED)
        distinct, inverse = np.unique(hashes, return_inverse=True)
        found, locations = self._locate(txn, distinct)
        location_of = dict(zip(found.tolist(), locations.tolist(), strict=True))
        for i, (_, action) in zip(inverse.tolist(), change.actions, strict=True):
            if i in location_of:
                added = [*self._added(txn, location_of[i]), action]
                txn.put(_NUMBER.pack(location_of[i]), json.dumps(added).encode(), db=self._later)

    def _block(self, txn: Any, number: int) -> tuple[int, pa.RecordBatch | None]:
        """(the number of its schema, the block), without a copy; None once it has expired."""
        data = txn.get(_NUMBER.pack(number), db=self._blocks)
        if data is None:
            return 0, None
        schema = _NUMBER.unpack_from(data)[0]
        if schema not in self._schemas:
            self._schemas[schema] = pa.ipc.read_schema(pa.py_buffer(bytes(txn.get(data[:8], db=self._shapes))))
        message = pa.py_buffer(data)[_NUMBER.size :]
        return schema, pa.ipc.read_record_batch(message, self._schemas[schema])

    def _schema_number(self, txn: Any, schema: pa.Schema) -> int:
        """The number under which a schema is kept; given now if it is new."""
        text = schema.serialize().to_pybytes()
        for key, value in txn.cursor(self._shapes):
            if bytes(value) == text:
                return int(_NUMBER.unpack(key)[0])
        number = self._next(txn, self._shapes)
        txn.put(_NUMBER.pack(number), text, db=self._shapes)
        return number

    def _added(self, txn: Any, location: int) -> list[dict[str, Any]]:
        data = txn.get(_NUMBER.pack(location), db=self._later)
        return [] if data is None else json.loads(bytes(data))

    def _next(self, txn: Any, db: Any) -> int:
        """The number after the last one used as a key."""
        cursor = txn.cursor(db)
        return _NUMBER.unpack(cursor.key())[0] + 1 if cursor.last() else 0

    # --- the index

    def _all_runs(self, txn: Any) -> Iterator[_Run]:
        for key, value in txn.cursor(self._runs):
            yield _Run(_NUMBER.unpack(key)[0], *_RUN.unpack(value))

    def _arrays_of(self, txn: Any, run: _Run) -> tuple[U64, U64]:
        values = np.frombuffer(txn.get(_NUMBER.pack(run.number), db=self._arrays), np.uint64)
        return values[: len(values) // 2], values[len(values) // 2 :]

    def _put_run(self, txn: Any, level: int, until: int, hashes: U64, locations: U64) -> None:
        order = np.argsort(hashes, kind="stable")  # rows come in ascending order, so the newest of an id is the last
        key = _NUMBER.pack(self._next(txn, self._runs))
        txn.put(key, np.concatenate([hashes[order], locations[order]]).tobytes(), db=self._arrays)
        txn.put(key, _RUN.pack(level, until, len(hashes)), db=self._runs)

    def _drop_run(self, txn: Any, run: _Run) -> None:
        txn.delete(_NUMBER.pack(run.number), db=self._runs)
        txn.delete(_NUMBER.pack(run.number), db=self._arrays)

    def _locate(self, txn: Any, hashes: U64) -> tuple[npt.NDArray[np.int64], U64]:
        """Which of the ascending hashes are there, and the newest row of each."""
        newest = np.zeros(len(hashes), np.int64) - 1
        for run in self._all_runs(txn):
            keys, locations = self._arrays_of(txn, run)
            at = np.searchsorted(keys, hashes, side="right") - 1
            hit = np.flatnonzero((keys[at] == hashes) & (at >= 0))
            newest[hit] = np.maximum(newest[hit], locations[at[hit]].astype(np.int64))
        found = np.flatnonzero(newest >= 0)
        return found, newest[found].astype(np.uint64)

    def _merge(self, txn: Any) -> None:
        """Keep fewer than FAN runs of a level, up to a size that no single write should exceed."""
        level = 0
        while len(runs := self._mergeable(txn, level)) >= _FAN:
            arrays = [self._arrays_of(txn, run) for run in runs]
            hashes = np.concatenate([keys for keys, _ in arrays])
            locations = np.concatenate([rows for _, rows in arrays])
            alive = locations >= np.uint64(self._first_block(txn) << _ROW_BITS)
            for run in runs:
                self._drop_run(txn, run)
            self._put_run(txn, level + 1, max(run.until for run in runs), hashes[alive], locations[alive])
            level += 1

    def _mergeable(self, txn: Any, level: int) -> list[_Run]:
        return [run for run in self._all_runs(txn) if run.level == level and run.rows <= _MAX_MERGED // _FAN]

    def _first_block(self, txn: Any) -> int:
        cursor = txn.cursor(self._blocks)
        return int(_NUMBER.unpack(cursor.key())[0]) if cursor.first() else 0

    # --- expiry

    def _expire(self, txn: Any, clock_us: int) -> None:
        """Drop a bounded number of blocks that every shard has passed, so that no write takes long."""
        cursor = txn.cursor(self._expiry)
        for _ in range(_EXPIRED_AT_ONCE):
            if not cursor.first():
                break
            until, number = _UNTIL.unpack(cursor.key())
            if until >= clock_us:
                break
            cursor.delete()
            txn.delete(_NUMBER.pack(number), db=self._blocks)
            self._drop_added(txn, number)
        for run in [run for run in self._all_runs(txn) if run.until < clock_us]:
            self._drop_run(txn, run)

    def _drop_added(self, txn: Any, number: int) -> None:
        cursor = txn.cursor(self._later)
        cursor.set_range(_NUMBER.pack(number << _ROW_BITS))
        while len(cursor.key()) and _NUMBER.unpack(cursor.key())[0] >> _ROW_BITS == number:
            cursor.delete()


def _open(directory: str) -> Any:
    """Open with as much address space as there is, up to _MAP_BYTES."""
    map_bytes = _MAP_BYTES
    while True:
        try:
            # Without metasync a crash of the machine may lose the last writes, and no more: they are written again.
            return lmdb.open(directory, map_size=map_bytes, max_dbs=7, metasync=False, readahead=False)
        except lmdb.MemoryError:
            if map_bytes <= _MIN_MAP_BYTES:
                raise
            map_bytes //= 2
