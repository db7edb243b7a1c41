"""What a commit has besides parameters: keys of examples and dense weights, in rows that are written once.

Their keys have the stamp of the commit, so that what a commit wrote that was never published is found by nobody.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from monobeam.store import chunk
from monobeam.store.backend import BackendError, Commit, SeenKeys
from monobeam.store.bigtable.client import Client
from monobeam.store.bigtable.published import Parts, Published
from monobeam.store.bigtable.wire import STATE, Range, delete_row, sealed, set_cell, unsealed

SEEN, DENSE, VALUES = b"k", b"t", b"w"
_SEEN_KEY = struct.Struct(">QII")  # stamp, newest second, piece
_PART_KEY = struct.Struct(">QI")  # stamp, piece
_PART_BYTES = 1 << 20
_TAIL_KEYS = 2048
_KEPT = 8  # commits: for who reads an earlier one
_FILTERS = {"family_name_regex_filter": STATE, "cells_per_column_limit_filter": 1}
_KEYS_ALONE = {**_FILTERS, "strip_value_transformer": True}


class Tail(NamedTuple):
    """A small row of example keys that the next commit writes again with its own, so that rows do not stay small."""

    key: bytes
    seen: SeenKeys


class Extras:
    """Written by the owner of shard 0, with its stamps."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._counting: list[bytes] = []  # rows of example keys
        self._tail: Tail | None = None
        self._superseded: deque[set[bytes]] = deque()  # of each of the last commits
        self._stamp = -1  # of the commit that all this is of

    def write(self, commit: Commit, before: Published | None, after: Published) -> tuple[Published, Written]:
        """Write what becomes true once the result is published."""
        if self._stamp != _stamp(before):  # a commit that failed came true
            self.recover(before, after.stamps[0])
        stamp = after.stamps[0]
        old = {key for key in self._counting if _newest(key) <= commit.forget_s}
        tail = self._tail if self._tail and self._tail.key not in old and len(commit.seen.keys) else None
        seen = _joined(tail.seen, commit.seen) if tail else commit.seen
        old |= {tail.key} if tail else set()
        rows = dict(_seen_rows(seen, stamp))
        keys = list(rows)
        dense, values = (before.dense, before.values) if before else (None, None)
        counting = [key for key in self._counting if key not in old] + keys
        if commit.dense is not None:
            old.update(_part_keys(DENSE, dense))
            dense = Parts(stamp, _pieces(len(commit.dense)))
            rows |= _part_rows(DENSE, dense, commit.dense)
        if commit.dense_values is not None:
            old.update(_part_keys(VALUES, values))
            values = Parts(stamp, _pieces(len(commit.dense_values)), commit.manifest.dense_version)
            rows |= _part_rows(VALUES, values, commit.dense_values)
        self._client.mutate(set_cell(key, value) for key, value in rows.items())
        ignored = {key.hex() for keys in (*self._superseded, old) for key in keys if key[:1] == SEEN}
        after = replace(after, dense=dense, values=values, superseded=tuple(sorted(ignored)), seen_rows=len(counting))
        small = keys and len(seen.keys) < _TAIL_KEYS
        return after, Written(stamp, counting, Tail(keys[0], seen) if small else None, old)

    def written(self, written: Written) -> None:
        """It was published: delete what has been superseded for some commits, now or after a later one."""
        self._stamp = written.stamp
        self._counting, self._tail = written.counting, written.tail or self._tail
        if self._tail and self._tail.key not in self._counting:
            self._tail = None
        self._superseded.append(written.superseded)
        try:
            while len(self._superseded) > _KEPT:
                self._client.mutate(map(delete_row, self._superseded[0]))
                self._superseded.popleft()
        except BackendError:
            return

    def recover(self, published: Published | None, begun: int) -> None:
        """Find the rows that count, and delete all others up to the stamp ``begun``: later ones are not of this owner.

        There are some if it was paused, and does not know yet that it is the owner no more.
        """
        self._stamp, self._tail, self._counting = _stamp(published), None, []
        self._superseded.clear()
        keep: set[bytes] = set()
        if published is not None:
            keep.update(_part_keys(DENSE, published.dense), _part_keys(VALUES, published.values))
        garbage = []
        for kind in (SEEN, DENSE, VALUES):
            for cell in self._client.cells(_all(kind), _KEYS_ALONE):
                if kind == SEEN and published is not None and _counts(cell.key, published):
                    self._counting.append(cell.key)
                elif cell.key not in keep and _stamp_in(cell.key) <= begun:
                    garbage.append(cell.key)
        self._client.mutate(map(delete_row, garbage))


class Written(NamedTuple):
    """What holds once a commit is published: rows of example keys that count, the small one, and those to delete."""

    stamp: int
    counting: list[bytes]
    tail: Tail | None
    superseded: set[bytes]


def forget(client: Client, stamps: Iterable[int]) -> None:
    """Delete what was written with these stamps, and never published."""
    ranges = [
        Range(*(kind + struct.pack(">Q", end) for end in (stamp, stamp + 1)))
        for stamp in stamps
        for kind in (SEEN, DENSE, VALUES)
    ]
    client.mutate(delete_row(cell.key) for rows in ranges for cell in client.cells(rows, _KEYS_ALONE))


def seen(client: Client, published: Published) -> Iterator[SeenKeys]:
    """All example keys that were published, a block for every row."""
    for cell in client.cells(_all(SEEN), _FILTERS):
        if _counts(cell.key, published):
            yield chunk.decode_seen(cell.key, cell.value)


def parts(client: Client, kind: bytes, parts: Parts) -> bytes | None:
    """The bytes in all parts; None where some are not there."""
    cells = list(client.cells(list(_part_keys(kind, parts)), _FILTERS))
    return b"".join(unsealed(cell.key, cell.value) for cell in cells) if len(cells) == parts.pieces else None


def _joined(old: SeenKeys, new: SeenKeys) -> SeenKeys:
    return SeenKeys(np.concatenate([old.keys, new.keys]), np.concatenate([old.seconds, new.seconds]))


def _stamp(published: Published | None) -> int:
    return published.stamps[0] if published else 0


def _all(kind: bytes) -> Range:
    return Range(kind, bytes([kind[0] + 1]))


def _seen_rows(seen: SeenKeys, stamp: int) -> Iterator[tuple[bytes, bytes]]:
    for piece, data in enumerate(chunk.encode_seen(seen)):
        yield SEEN + _SEEN_KEY.pack(stamp, chunk.newest_second(data), piece), bytes(data)


def _newest(key: bytes) -> int:
    return int(_SEEN_KEY.unpack_from(key, 1)[1])


def _stamp_in(key: bytes) -> int:
    return int.from_bytes(key[1:9])


def _counts(key: bytes, published: Published) -> bool:
    return published.is_published(_stamp_in(key), 0) and key.hex() not in published.superseded


def _pieces(size: int) -> int:
    return max(1, -(-size // _PART_BYTES))


def _part_keys(kind: bytes, parts: Parts | None) -> Iterator[bytes]:
    if parts is not None:
        yield from (kind + _PART_KEY.pack(parts.stamp, piece) for piece in range(parts.pieces))


def _part_rows(kind: bytes, parts: Parts, data: bytes) -> dict[bytes, bytes]:
    keys = enumerate(_part_keys(kind, parts))
    return {key: sealed(data[at * _PART_BYTES : (at + 1) * _PART_BYTES]) for at, key in keys}
