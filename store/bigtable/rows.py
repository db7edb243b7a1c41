"""Rows as of a moment: scans in parallel ranges, and multi-gets.

Several calls are under way at a time, and one thread reads them in turns: while it reads from one, the others' rows
arrive. Threads of Python would wait for each other at every row.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeVar

import numpy as np

from monobeam.store.backend import Block
from monobeam.store.bags import Keys
from monobeam.store.bigtable.client import KEYS_PER_REQUEST, Cell, Client
from monobeam.store.bigtable.published import Published, Void
from monobeam.store.bigtable.wire import (
    ROWS,
    check_sealed,
    parameter_keys,
    parameters,
    prefixes_of_shard,
)
from monobeam.store.changes import NO_KEYS, Change, Rows
from monobeam.store.chunk import CorruptError

BLOCK_ROWS = 4096
_T = TypeVar("_T")


class RawCell(NamedTuple):
    """One version of a parameter; ``epoch``: the stamp of its cell; ``row``: as stored, empty where it is deleted."""

    prefix: int
    table: str
    fid: int
    epoch: int
    row: bytes


@dataclass(frozen=True)
class Moment:
    """A shard as of a manifest: its rows' newest cells not newer than ``stamp`` that are not ``void``."""

    first: int
    end: int
    stamp: int
    void: tuple[Void, ...]

    @staticmethod
    def of(published: Published, shard: int) -> Moment:
        """The shard as of what was published."""
        first, end = prefixes_of_shard(shard, published.shards)
        void = tuple(v for v in published.void if v.first < end and first < v.end)
        return Moment(first, end, published.stamps[shard], void)

    def scan(self, client: Client, streams: int) -> Iterator[Block]:
        """All live rows, in blocks; ``streams`` ranges are read at a time."""
        cuts = np.linspace(self.first, self.end, min(streams, self.end - self.first) + 1).astype(int).tolist()
        ranges = [parameters(first, end) for first, end in itertools.pairwise(cuts)]
        sources = (_blocks(self._newest(client, rows)) for rows in ranges)
        for table, change in in_turns(sources, streams):
            if len(change.keys):
                yield Block(table, change.keys, change.rows)

    def get(self, client: Client, table: str, ids: Keys) -> Change:
        """The rows of ids, and as deletes those that have none."""
        keys = [key.tobytes() for key in parameter_keys(table, ids)]
        keys.sort()
        parts = (keys[at : at + KEYS_PER_REQUEST] for at in range(0, len(keys), KEYS_PER_REQUEST))
        sources = (_blocks(self._newest(client, part)) for part in parts)
        changes = [change for _, change in in_turns(sources, client.in_flight) if len(change.keys)]
        if not changes:
            return Change(NO_KEYS, np.empty((0, 0), np.uint8), np.sort(ids))
        found = np.concatenate([change.keys for change in changes])
        rows = np.concatenate([change.rows for change in changes])
        order = np.argsort(found)
        return Change(found[order], rows[order], np.setdiff1d(ids, found))

    def _newest(self, client: Client, rows: Sequence[bytes]) -> Iterator[Cell]:
        until = {"end_timestamp_micros": 1000 * (self.stamp + 1)}
        filters = {"family_name_regex_filter": ROWS, "timestamp_range_filter": until}
        newest = client.cells(rows, {**filters, "cells_per_column_limit_filter": 1})
        return self._without_void(client, newest, filters) if self.void else newest

    def _without_void(self, client: Client, newest: Iterator[Cell], filters: Mapping[str, Any]) -> Iterator[Cell]:
        stamps = {void.stamp for void in self.void}
        for cell in newest:
            if cell.stamp in stamps and self._is_void(cell):  # written late: what counts is older
                yield from self._newest_valid(client.cells([cell.key], filters))
            else:
                yield cell

    def _newest_valid(self, cells: Iterable[Cell]) -> Iterator[Cell]:
        valid = [cell for cell in cells if not self._is_void(cell)]
        yield from valid[:1]

    def _is_void(self, cell: Cell) -> bool:
        prefix = int.from_bytes(cell.key[1:3])
        return any(void.stamp == cell.stamp and void.first <= prefix < void.end for void in self.void)


def raw_cells(client: Client) -> Iterator[RawCell]:
    """Every cell of every parameter, whatever its epoch."""
    for cell in client.cells(parameters(0, 1 << 16), {"family_name_regex_filter": ROWS}):
        check_sealed([cell.key], [cell.value] if cell.value else [b"\0\0\0\0"])
        yield RawCell(int.from_bytes(cell.key[1:3]), *_table_and_id(cell.key), cell.stamp, cell.value[:-4])


def _table_and_id(key: bytes) -> tuple[str, int]:
    return key[4:-8].decode(), int.from_bytes(key[-8:])


def in_turns(sources: Iterable[Generator[_T]], at_a_time: int) -> Iterator[_T]:
    """What all of them give, one piece of each in turn. They are made when they are needed, so many ``at_a_time``."""
    more, begun = iter(sources), deque[Generator[_T]]()
    try:
        begun.extend(itertools.islice(more, at_a_time))
        while begun:
            try:
                yield next(begun[0])
                begun.rotate(-1)
            except StopIteration:
                begun.popleft()
                begun.extend(itertools.islice(more, 1))
    finally:
        with ExitStack() as closing:
            for source in begun:
                closing.callback(source.close)


def _blocks(cells: Iterable[Cell]) -> Generator[tuple[str, Change]]:
    """Cells by table, some thousand at a time; empty ones are deletes."""
    by_table: dict[bytes, list[Cell]] = {}
    count = 0
    for cell in cells:
        by_table.setdefault(cell.key[4:-8], []).append(cell)
        count += 1
        if count == BLOCK_ROWS:
            yield from ((name.decode(), _change(some)) for name, some in by_table.items())
            by_table, count = {}, 0
    yield from ((name.decode(), _change(some)) for name, some in by_table.items())


def _change(cells: list[Cell]) -> Change:
    live = [cell for cell in cells if cell.value]
    check_sealed([cell.key for cell in live], (cell.value for cell in live))
    if len({len(cell.value) for cell in live}) > 1:
        raise CorruptError(f"row {live[0].key!r} and those after it: rows of one table have different lengths")
    flat = np.frombuffer(b"".join(cell.value for cell in live), np.uint8)
    rows: Rows = flat.reshape(len(live), len(live[0].value) if live else 4)[:, :-4]
    gone = [cell.key for cell in cells if not cell.value]
    return Change(_ids([cell.key for cell in live]), np.ascontiguousarray(rows), _ids(gone))


def _ids(keys: list[bytes]) -> Keys:
    return np.frombuffer(b"".join(key[-8:] for key in keys), ">u8").astype(np.uint64)
