"""Changes and example keys as the values of an embedded database: little endian, checksummed, at most about 1 MiB.

A chunk of rows: crc32 of all that follows | row_bytes | rows N | deletes D | number of the table | 0 (uint32 each),
uint64[N] ids, uint64[D] deleted ids, uint8[N, row_bytes] rows. A chunk of example keys: crc32 | count N | newest second
| 0, uint64[N] keys, uint32[N] seconds. Tables are numbered by name, in sorted order.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from monobeam.store.backend import BackendError, SeenKeys
from monobeam.store.changes import NO_KEYS, Change

CHUNK_BYTES = 1 << 18
SEEN_KEYS = 64 << 10

_ROWS = struct.Struct("<6I")
_SEEN = struct.Struct("<4I")
_CRC = struct.Struct("<I")


Decoder = Callable[[bytes, memoryview], object]


class CorruptError(BackendError):
    """A stored value whose checksum or length is wrong."""


class TableChange(NamedTuple):
    """A change, and the number of its table."""

    table: int
    change: Change


def encode(table: int, change: Change) -> Iterator[memoryview]:
    """A change cut into chunks, made one by one: who lets go of each before the next needs memory for one alone."""
    row_bytes = change.rows.shape[1]
    step = max(1, CHUNK_BYTES // (8 + row_bytes))
    for start in range(0, len(change.keys), step):
        keys, rows = change.keys[start : start + step], change.rows[start : start + step]
        yield encode_whole(table, Change(keys, rows, NO_KEYS))
    step = CHUNK_BYTES // 8
    for start in range(0, len(change.deletes), step):
        yield encode_whole(table, Change(NO_KEYS, change.rows[:0], change.deletes[start : start + step]))


def encode_whole(table: int, change: Change) -> memoryview:
    """A change as one chunk, whatever its size."""
    header = struct.pack("<5I", change.rows.shape[1], len(change.keys), len(change.deletes), table, 0)
    ids = (part.astype("<u8", copy=False) for part in (change.keys, change.deletes))
    return _sealed(header, *ids, change.rows.reshape(-1))


def decode(key: bytes, value: memoryview | bytes) -> TableChange:
    """The change in a chunk; its arrays are views into ``value``. CorruptError names ``key``."""
    _check(key, value, _ROWS.size)
    _, row_bytes, count, deletes, table, _ = _ROWS.unpack_from(value)
    if len(value) != _ROWS.size + 8 * (count + deletes) + count * row_bytes:
        raise CorruptError(f"value {key!r}: {len(value)} bytes for {count} rows of {row_bytes} and {deletes} deletes")
    ids = np.frombuffer(value, "<u8", count + deletes, _ROWS.size)
    rows = np.frombuffer(value, np.uint8, count * row_bytes, _ROWS.size + ids.nbytes).reshape(count, row_bytes)
    return TableChange(table, Change(ids[:count], rows, ids[count:]))


def encode_seen(seen: SeenKeys) -> Iterator[memoryview]:
    """Example keys cut into chunks."""
    for start in range(0, len(seen.keys), SEEN_KEYS):
        keys, seconds = seen.keys[start : start + SEEN_KEYS], seen.seconds[start : start + SEEN_KEYS]
        header = struct.pack("<3I", len(keys), int(seconds.max()), 0)
        yield _sealed(header, keys.astype("<u8", copy=False), seconds.astype("<u4", copy=False))


def decode_seen(key: bytes, value: memoryview | bytes) -> SeenKeys:
    """The example keys in a chunk; views into ``value``."""
    _check(key, value, _SEEN.size)
    _, count, _, _ = _SEEN.unpack_from(value)
    if len(value) != _SEEN.size + 12 * count:
        raise CorruptError(f"value {key!r}: {len(value)} bytes for {count} example keys")
    keys = np.frombuffer(value, "<u8", count, _SEEN.size)
    return SeenKeys(keys, np.frombuffer(value, "<u4", count, _SEEN.size + keys.nbytes))


def table_of(value: memoryview | bytes) -> int:
    """The number of the table of a chunk of rows, without looking at the rest; 0 where there is no room for one."""
    return int(_ROWS.unpack_from(value)[4]) if len(value) >= _ROWS.size else 0


def newest_second(value: memoryview | bytes) -> int:
    """The time of the youngest example key in a chunk, without looking at the rest."""
    return int(_SEEN.unpack_from(value)[2])


def _sealed(header: bytes, *arrays: npt.NDArray[Any]) -> memoryview:
    """The checksum and all that it is of, copied once."""
    start = np.frombuffer(bytes(_CRC.size) + header, np.uint8)
    value = np.concatenate([start, *(array.view(np.uint8) for array in arrays)]).data
    _CRC.pack_into(value, 0, zlib.crc32(value[_CRC.size :]))
    return value


def _check(key: bytes, value: memoryview | bytes, header: int) -> None:
    if len(value) < header or _CRC.unpack_from(value)[0] != zlib.crc32(memoryview(value)[_CRC.size :]):
        raise CorruptError(f"value {key!r}: checksum of its {len(value)} bytes is wrong; restore the store from a copy")
