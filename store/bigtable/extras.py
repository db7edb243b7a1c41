"""What a commit has besides parameters: keys of examples and dense weights, in rows that are written once.

Their keys have the stamp of the commit, so that what a commit wrote that was never published is found by nobody.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from monobeam.store import chunk
from monobeam.store.backend import BackendError, Commit, DenseValues, SeenKeys
from monobeam.store.bigtable.client import Client
from monobeam.store.bigtable.published import Parts, Published
from monobeam.store.bigtable.wire import STATE, Range, delete_row, sealed, set_cell, unsealed
from monobeam.store.chunk import CorruptError

_SEEN_KEY = struct.Struct(">QII")  # stamp, newest second, piece
_PART_KEY = struct.Struct(">QI")  # stamp, piece
_SEEN, _DENSE, _VALUES = b"k", b"t", b"w"
_PART_BYTES = 1 << 20
_TAIL_KEYS = 2048
_FILTERS = {"family_name_regex_filter": STATE, "cells_per_column_limit_filter": 1}
_KEYS_ALONE = {**_FILTERS, "strip_value_transformer": True}


class Tail(NamedTuple):
    """A small row of example keys that the next commit writes again with its own, so that rows do not stay small."""

    key: bytes
    seen: SeenKeys


class Extras:
    """Written by the owner of shard 0, with its stamps; read by anybody."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._counting: list[bytes] = []  # rows of example keys
        self._garbage: set[bytes] = set()
        self._tail: Tail | None = None
        self._written: tuple[list[bytes], Tail | None] = [], None

    def write(self, commit: Commit, before: Published | None, after: Published) -> Published:
        """Write what becomes true once the result is published."""
        stamp = after.stamps[0]
        seen, replaced = self._with_tail(commit.seen)
        rows = dict(_seen_rows(seen, stamp))
        keys = list(rows)
        self._written = keys, Tail(keys[0], seen) if len(seen.keys) < _TAIL_KEYS and keys else None
        dense, values = (before.dense, before.values) if before else (None, None)
        if commit.dense is not None:
            dense = Parts(stamp, _parts(len(commit.dense)))
            rows |= _part_rows(_DENSE, stamp, commit.dense)
        if commit.dense_values is not None:
            values = Parts(stamp, _parts(len(commit.dense_values)), commit.manifest.dense_version)
            rows |= _part_rows(_VALUES, stamp, commit.dense_values)
        self._client.mutate(set_cell(key, value) for key, value in rows.items())
        forgotten = [key for key in self._counting if _newest(key) <= commit.forget_s]
        superseded = {key for key in self._garbage if key[:1] == _SEEN}.union(replaced, forgotten)
        return replace(after, dense=dense, values=values, superseded=tuple(sorted(key.hex() for key in superseded)))

    def sweep(self, before: Published | None, after: Published) -> None:
        """Delete what is replaced by what was published; what cannot be deleted waits for the next commit."""
        superseded = {bytes.fromhex(key) for key in after.superseded}
        keys, self._tail = self._written
        self._counting = [key for key in self._counting if key not in superseded] + keys
        self._garbage |= superseded
        if before:
            self._garbage |= set(_part_keys(_DENSE, before.dense)) - set(_part_keys(_DENSE, after.dense))
            self._garbage |= set(_part_keys(_VALUES, before.values)) - set(_part_keys(_VALUES, after.values))
        try:
            self._client.mutate(map(delete_row, self._garbage))
        except BackendError:
            return
        self._garbage = set()

    def recover(self, published: Published | None) -> None:
        """Find the rows that count, and delete all others."""
        self._tail, self._garbage, self._counting = None, set(), []
        counting: set[bytes] = set()
        if published is not None:
            counting.update(_part_keys(_DENSE, published.dense), _part_keys(_VALUES, published.values))
        for kind in (_SEEN, _DENSE, _VALUES):
            for cell in self._client.cells(_all(kind), _KEYS_ALONE):
                if kind == _SEEN and published is not None and _counts(cell.key, published):
                    self._counting.append(cell.key)
                elif cell.key not in counting:
                    self._garbage.add(cell.key)
        self._client.mutate(map(delete_row, self._garbage))
        self._garbage = set()

    def seen(self, published: Published) -> Iterator[SeenKeys]:
        """All example keys that were published."""
        for cell in self._client.cells(_all(_SEEN), _FILTERS):
            if _counts(cell.key, published):
                yield chunk.decode_seen(cell.key, cell.value)

    def dense(self, published: Callable[[], Published | None]) -> bytes | None:
        """The trainer's bytes."""
        found = self._newest_parts(_DENSE, published, lambda now: now.dense)
        return found and found[1]

    def values(self, published: Callable[[], Published | None]) -> DenseValues | None:
        """The weights for serving."""
        found = self._newest_parts(_VALUES, published, lambda now: now.values)
        return found and DenseValues(found[0].version, found[1])

    def _newest_parts(
        self, kind: bytes, published: Callable[[], Published | None], which: Callable[[Published], Parts | None]
    ) -> tuple[Parts, bytes] | None:
        """Bytes that a commit may replace, and delete, while they are read: then the newer ones."""
        before: Parts | None = None
        while True:
            now = published()
            parts = None if now is None else which(now)
            if parts is None:
                return None
            keys = list(_part_keys(kind, parts))
            cells = list(self._client.cells(keys, _FILTERS))
            if len(cells) == len(keys):
                return parts, b"".join(unsealed(cell.key, cell.value) for cell in cells)
            if parts == before:
                raise CorruptError(f"row {keys[0]!r}: {len(cells)} of {len(keys)} parts; restore the store from a copy")
            before = parts

    def _with_tail(self, new: SeenKeys) -> tuple[SeenKeys, list[bytes]]:
        """New keys, after those of the last row if that is small, and the row that is then replaced."""
        if self._tail is None or not len(new.keys):
            return new, []
        tail = self._tail.seen
        keys, seconds = np.concatenate([tail.keys, new.keys]), np.concatenate([tail.seconds, new.seconds])
        return SeenKeys(keys, seconds), [self._tail.key]


def _all(kind: bytes) -> Range:
    return Range(kind, bytes([kind[0] + 1]))


def _seen_rows(seen: SeenKeys, stamp: int) -> Iterator[tuple[bytes, bytes]]:
    for piece, data in enumerate(chunk.encode_seen(seen)):
        yield _SEEN + _SEEN_KEY.pack(stamp, chunk.newest_second(data), piece), bytes(data)


def _newest(key: bytes) -> int:
    return int(_SEEN_KEY.unpack_from(key, 1)[1])


def _counts(key: bytes, published: Published) -> bool:
    stamp = _SEEN_KEY.unpack_from(key, 1)[0]
    return stamp <= published.stamps[0] and not published.is_void(stamp, 0) and key.hex() not in published.superseded


def _parts(size: int) -> int:
    return max(1, -(-size // _PART_BYTES))


def _part_keys(kind: bytes, parts: Parts | None) -> Iterator[bytes]:
    if parts is not None:
        yield from (kind + _PART_KEY.pack(parts.stamp, piece) for piece in range(parts.pieces))


def _part_rows(kind: bytes, stamp: int, data: bytes) -> dict[bytes, bytes]:
    keys = _part_keys(kind, Parts(stamp, _parts(len(data))))
    return {key: sealed(data[at * _PART_BYTES : (at + 1) * _PART_BYTES]) for at, key in enumerate(keys)}
