"""The cold store: impressions that left the hot state, for the actions that come days later."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol

import pyarrow as pa

_EXPIRED_AT_ONCE = 4096

ACTION = pa.struct(
    {
        "type": pa.string(),
        "time": pa.int64(),
        "value": pa.float64(),
        "matched": pa.int64(),
        "log": pa.string(),
        "partition": pa.int32(),
        "offset": pa.int64(),
    }
)
"""An action of an impression: its identity, when it matched (event time), and the position of its first sight."""

HEAD = pa.schema(
    {
        "_id": pa.string(),
        "_time": pa.int64(),
        "_due": pa.int64(),
        "_leave": pa.int64(),
        "_log": pa.string(),
        "_partition": pa.int32(),
        "_offset": pa.int64(),
        "_actions": pa.list_(ACTION),
    }
)
"""What precedes the features in a cold batch; `_leave` is when the impression left the hot state, in event time."""


@dataclass(frozen=True)
class ColdWrite:
    """What one advance of one of ``shards`` shards does to the cold store.

    First ``actions`` (id, fields of ACTION) join impressions that are there; then ``impressions`` (columns HEAD, then
    features) replace older ones of the same id, and may go after ``until_us``. ``clock_us``: how far the shard is.
    """

    shard: int
    shards: int
    clock_us: int
    impressions: Sequence[tuple[pa.RecordBatch, int]] = ()
    actions: Sequence[tuple[str, Mapping[str, Any]]] = ()


class ColdStore(Protocol):
    """Impressions by id.

    It survives what the engine does not: after a restart it may hold more than the engine has seen so far, and may be
    written the same again. What has expired (the clocks of all shards have passed it) goes at some later time.
    """

    def get(self, ids: pa.StringArray) -> list[pa.RecordBatch]:
        """The impressions found, each once: columns HEAD with all their actions, then features; a batch per schema."""
        ...

    def write(self, change: ColdWrite) -> None:
        """Apply a change, atomically; on return it survives the death of the process."""
        ...

    def close(self) -> None:
        """Release what is held."""
        ...


class Found(NamedTuple):
    """Rows that a store has found: what tells their schema from others, and for each the actions that came later."""

    schema: Hashable
    rows: pa.RecordBatch
    later: Sequence[Sequence[Mapping[str, Any]]]


def open_cold(uri: str) -> ColdStore:
    """The cold store at ``memory:`` or ``lmdb:DIR``; ValueError for any other address."""
    from monobeam.join.lmdb_cold import LmdbCold

    kind, _, path = uri.partition(":")
    if kind == "memory" and not path:
        return MemoryCold()
    if kind == "lmdb" and path:
        return LmdbCold(path)
    raise ValueError(f"cold store {uri!r}: must be memory: or lmdb:DIR")


class MemoryCold:
    """A cold store that lives and dies with the process: for tests, and for bounded runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rows: dict[str, tuple[pa.RecordBatch, int, int]] = {}
        self._later: dict[str, list[Mapping[str, Any]]] = {}
        self._clocks: dict[int, int] = {}

    def get(self, ids: pa.StringArray) -> list[pa.RecordBatch]:
        """As ColdStore says."""
        with self._lock:
            found = []
            for id_ in dict.fromkeys(ids.to_pylist()):
                if id_ in self._rows:
                    batch, row, _ = self._rows[id_]
                    found.append(Found(batch.schema, batch.slice(row, 1), [self._later.get(id_, ())]))
            return collected(found)

    def write(self, change: ColdWrite) -> None:
        """As ColdStore says."""
        with self._lock:
            for id_, action in change.actions:
                self._later.setdefault(id_, []).append(action)
            for batch, until in change.impressions:
                for row, id_ in enumerate(batch.column("_id").to_pylist()):
                    self._rows.pop(id_, None)
                    self._rows[id_] = (batch, row, until)
                    self._later.pop(id_, None)
            self._clocks = {shard: clock for shard, clock in self._clocks.items() if shard < change.shards}
            self._clocks[change.shard] = change.clock_us
            self._expire(min(self._clocks.values()))

    def close(self) -> None:
        """As ColdStore says."""

    def _expire(self, clock_us: int) -> None:
        # Ids lie in the order of their last write, which is nearly that of their expiry.
        for id_ in list(islice(self._rows, _EXPIRED_AT_ONCE)):
            if self._rows[id_][2] >= clock_us:
                break
            del self._rows[id_]
            self._later.pop(id_, None)


def collected(found: Sequence[Found]) -> list[pa.RecordBatch]:
    """Rows as one batch per schema, copied, with the actions that came later added to each."""
    groups: dict[Hashable, list[Found]] = {}
    for part in found:
        groups.setdefault(part.schema, []).append(part)
    batches = []
    for parts in groups.values():
        batch = pa.concat_batches([part.rows for part in parts])
        later = [actions for part in parts for actions in part.later]
        if len(parts) == 1:
            batch = batch.take(pa.array(range(batch.num_rows), pa.int64()))
        if any(later):
            merged = [a + list(b) for a, b in zip(batch.column("_actions").to_pylist(), later, strict=True)]
            at = batch.schema.get_field_index("_actions")
            batch = batch.set_column(at, batch.schema.field(at), pa.array(merged, HEAD.field("_actions").type))
        batches.append(batch)
    return batches
