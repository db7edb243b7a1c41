"""Which ids every commit touched: what a reader that fell behind has missed, what is to be undone, and what to trim.

A commit's ids are in rows of their own, written before its cells. History is trimmed by them: of every id the versions
that a later one in the same commits supersedes, and what a delete left; then the rows of ids.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np

from monobeam.store import chunk
from monobeam.store.bags import Keys
from monobeam.store.bigtable.client import Client
from monobeam.store.bigtable.wire import STATE, Range, delete_row, delete_rows, set_cell
from monobeam.store.changes import Change

_KEY = struct.Struct(">HHQQH")
_FILTERS = {"family_name_regex_filter": STATE, "cells_per_column_limit_filter": 1}


class Delta(NamedTuple):
    """A commit of a shard, as far as it touched rows; ``layout``: as which the store then was cut."""

    layout: int
    shard: int
    epoch: int
    stamp: int


class Touched(NamedTuple):
    """The ids of a delta in one table, and those that it deleted; some of them, in the row ``key``."""

    key: bytes
    delta: Delta
    table: str
    written: Keys
    deleted: Keys


def entries(delta: Delta, tables: Mapping[str, Change]) -> Iterator[bytes]:
    """The mutations that write a delta."""
    for table, change in sorted(tables.items()):
        ids = Change(change.keys, change.rows[:, :0], change.deletes)
        for piece, data in enumerate(chunk.encode(0, ids)):
            yield set_cell(b"d" + _KEY.pack(*delta, piece) + table.encode(), bytes(data))


def listed(client: Client, layout: int, shard: int) -> list[Delta]:
    """The deltas of a shard."""
    return _listed(client, Range(_start(layout, shard), _start(layout, shard + 1)))


def listed_before(client: Client, layout: int) -> list[Delta]:
    """The deltas of all layouts before this one."""
    return _listed(client, Range(b"d", _start(layout, 0)))


def read(client: Client, layout: int, shard: int, after: int, until: int) -> Iterator[Touched]:
    """The deltas of a shard with ``after < epoch <= until``, whatever became of them."""
    if after < until:
        start, end = (_start(layout, shard) + struct.pack(">Q", epoch + 1) for epoch in (after, until))
        yield from _read(client, Range(start, end))


def read_all(client: Client) -> Iterator[Touched]:
    """The deltas of all shards."""
    return _read(client, Range(b"d", b"e"))


def undo(client: Client, deltas: Iterable[Delta]) -> list[Touched]:
    """Delete the cells of commits that were never published. Their ids stay: some cells may be written late."""
    touched = _touched(client, deltas)
    client.mutate(
        entry
        for some in touched
        for ids in (some.written, some.deleted)
        for entry in delete_rows(some.table, ids, some.delta.stamp, some.delta.stamp + 1)
    )
    return touched


def forget(client: Client, deltas: Iterable[Delta]) -> None:
    """Undo them, and delete their ids."""
    touched = undo(client, deltas)
    client.mutate(delete_row(some.key) for some in touched)


def trim(client: Client, deltas: Iterable[Delta]) -> None:
    """Delete what published commits supersede among themselves, from the oldest on; then their ids."""
    touched = _touched(client, deltas)
    by_table: defaultdict[str, list[Touched]] = defaultdict(list)
    for some in touched:
        by_table[some.table].append(some)
    client.mutate(entry for table, parts in by_table.items() for entry in _superseded(table, parts))
    client.mutate(delete_row(some.key) for some in touched)


def _touched(client: Client, deltas: Iterable[Delta]) -> list[Touched]:
    by_shard: defaultdict[tuple[int, int], set[Delta]] = defaultdict(set)
    for delta in deltas:
        by_shard[delta.layout, delta.shard].add(delta)
    found = []
    for shard, wanted in by_shard.items():
        epochs = [delta.epoch for delta in wanted]
        found += [some for some in read(client, *shard, min(epochs) - 1, max(epochs)) if some.delta in wanted]
    return found


def _start(layout: int, shard: int) -> bytes:
    return b"d" + struct.pack(">I", (layout << 16) + shard)


def _listed(client: Client, rows: Range) -> list[Delta]:
    cells = client.cells(rows, {**_FILTERS, "strip_value_transformer": True})
    return list(dict.fromkeys(_delta(cell.key) for cell in cells))


def _read(client: Client, rows: Range) -> Iterator[Touched]:
    for cell in client.cells(rows, _FILTERS):
        change = chunk.decode(cell.key, cell.value).change
        yield Touched(cell.key, _delta(cell.key), cell.key[1 + _KEY.size :].decode(), change.keys, change.deletes)


def _superseded(table: str, touched: list[Touched]) -> Iterator[bytes]:
    """Of every id, what is older than the newest of these commits; and that one, if it deleted the id."""
    parts = [(some.delta.stamp, gone, ids) for some in touched for gone, ids in enumerate((some.written, some.deleted))]
    ids = np.concatenate([part for _, _, part in parts])
    ends = np.concatenate([np.full(len(part), 2 * stamp + gone, np.int64) for stamp, gone, part in parts])
    newest_first = np.lexsort((-ends, ids))
    ids, places = np.unique(ids[newest_first], return_index=True)
    newest = ends[newest_first][places]
    for end in np.unique(newest).tolist():
        stamp, gone = divmod(end, 2)
        yield from delete_rows(table, ids[newest == end], 0, stamp + gone)


def _delta(key: bytes) -> Delta:
    *delta, _ = _KEY.unpack_from(key, 1)
    return Delta(*delta)
