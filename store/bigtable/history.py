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

_KEY = struct.Struct(">HQQH")
_FILTERS = {"family_name_regex_filter": STATE, "cells_per_column_limit_filter": 1}


class Delta(NamedTuple):
    """A commit of a shard, as far as it touched rows."""

    shard: int
    epoch: int
    stamp: int


class Touched(NamedTuple):
    """The ids of a delta in one table, and those that it deleted."""

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


def listed(client: Client, shards: Iterable[int]) -> list[Delta]:
    """The deltas of shards, by shard and epoch."""
    found: dict[Delta, None] = {}
    for shard in shards:
        rows = Range(b"d" + struct.pack(">H", shard), _after_shard(shard))
        for cell in client.cells(rows, {**_FILTERS, "strip_value_transformer": True}):
            found[_delta(cell.key)] = None
    return list(found)


def read(client: Client, shard: int, after: int, until: int) -> Iterator[Touched]:
    """The deltas of a shard with ``after < epoch <= until``, whatever became of them."""
    if after < until:
        start = b"d" + struct.pack(">HQ", shard, after + 1)
        end = b"d" + struct.pack(">HQ", shard, until + 1)
        for cell in client.cells(Range(start, end), _FILTERS):
            change = chunk.decode(cell.key, cell.value).change
            table = cell.key[1 + _KEY.size :].decode()
            yield Touched(_delta(cell.key), table, change.keys, change.deletes)


def undo(client: Client, delta: Delta) -> None:
    """Delete the cells of a commit that was never published, and then its ids."""
    touched = [some for some in read(client, delta.shard, delta.epoch - 1, delta.epoch) if some.delta == delta]
    client.mutate(
        entry
        for some in touched
        for ids in (some.written, some.deleted)
        for entry in delete_rows(some.table, ids, delta.stamp, delta.stamp + 1)
    )
    _forget(client, {delta})


def trim(client: Client, deltas: list[Delta]) -> None:
    """Delete what is superseded within consecutive published deltas of a shard, from the oldest on; then their ids."""
    if not deltas:
        return
    wanted = set(deltas)
    by_table: defaultdict[str, list[Touched]] = defaultdict(list)
    for some in read(client, deltas[0].shard, deltas[0].epoch - 1, deltas[-1].epoch):
        if some.delta in wanted:
            by_table[some.table].append(some)
    client.mutate(entry for table, touched in by_table.items() for entry in _superseded(table, touched))
    _forget(client, wanted)


def _superseded(table: str, touched: list[Touched]) -> Iterator[bytes]:
    ids = np.concatenate([part for some in touched for part in (some.written, some.deleted)])
    stamps = np.concatenate(
        [np.full(len(part), 2 * some.delta.stamp + gone)
         for some in touched for gone, part in enumerate((some.written, some.deleted))]
    )  # fmt: skip
    newest_first = np.lexsort((-stamps, ids))
    ids, places = np.unique(ids[newest_first], return_index=True)
    newest = stamps[newest_first][places]
    for code in np.unique(newest).tolist():
        stamp, gone = divmod(code, 2)
        yield from delete_rows(table, ids[newest == code], 0, stamp + gone)


def _forget(client: Client, deltas: set[Delta]) -> None:
    keys = []
    for delta in deltas:
        start = b"d" + _KEY.pack(*delta, 0)
        rows = Range(start, b"d" + _KEY.pack(delta.shard, delta.epoch, delta.stamp + 1, 0))
        keys += [cell.key for cell in client.cells(rows, {**_FILTERS, "strip_value_transformer": True})]
    client.mutate(map(delete_row, keys))


def _delta(key: bytes) -> Delta:
    shard, epoch, stamp, _ = _KEY.unpack_from(key, 1)
    return Delta(shard, epoch, stamp)


def _after_shard(shard: int) -> bytes:
    return b"d" + struct.pack(">H", shard + 1) if shard < 2**16 - 1 else b"e"
