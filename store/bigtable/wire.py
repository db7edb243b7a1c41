"""Row keys, mutations and cells of a store's table, as bytes.

Keys begin with a letter that says what the row is; numbers in them are big endian, so that rows sort by them. All
mutations are of explicit timestamps: applying one twice changes nothing.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from google.cloud.bigtable_v2.types import bigtable as messages
from google.cloud.bigtable_v2.types import data

from monobeam.store.backend import BackendError
from monobeam.store.bags import PREFIXES, Keys, prefix_of
from monobeam.store.changes import Rows
from monobeam.store.chunk import CorruptError

ROWS, STATE = "p", "s"  # column families: parameters, of which history is kept, and everything else
COLUMN = b"v"
MAX_KEY_BYTES = 4 << 10
MAX_CELL_BYTES = 10 << 20

Mutation = data.Mutation.pb()
_Request = messages.MutateRowsRequest.pb()
_Entry = messages.MutateRowsRequest.Entry.pb()
_KEY_MARK, _VALUE_MARK = b"\xa5", b"\xa6"
_CRC = struct.Struct("<I")
_CRC_OF_ITSELF = 0x2144DF1C  # the CRC-32 of anything followed by its own CRC-32, little endian


class Range(NamedTuple):
    """Row keys from ``start`` to before ``end``."""

    start: bytes
    end: bytes


def prefixes_of_shard(shard: int, shards: int) -> tuple[int, int]:
    """The first prefix of a shard and the first after it."""
    first, end = (-(-number * PREFIXES // shards) for number in (shard, shard + 1))
    return first, end


def parameters(first: int, end: int) -> Range:
    """The rows of all parameters with prefixes from ``first`` to before ``end``."""
    return Range(*(b"r" + struct.pack(">H", p) if p < PREFIXES else b"s" for p in (first, end)))


def parameter_keys(table: str, ids: Keys) -> Rows:
    """The row keys of ids, uint8[N, bytes]: r, prefix (2 bytes), length of the table's name (1), the name, id (8)."""
    name = table.encode()
    if len(name) > 255:
        raise BackendError(f"table {table!r}: a name has at most 255 bytes in Bigtable, this one {len(name)}")
    keys = np.empty((len(ids), 12 + len(name)), np.uint8)
    keys[:, 0] = ord("r")
    keys[:, 1:3] = prefix_of(ids).astype(">u2").view(np.uint8).reshape(-1, 2)
    keys[:, 3] = len(name)
    keys[:, 4:-8] = np.frombuffer(name, np.uint8)
    keys[:, -8:] = ids.astype(">u8").view(np.uint8).reshape(-1, 8)
    return keys


def prefix_of_key(key: bytes) -> int:
    """The prefix in the key of a parameter's row."""
    return int.from_bytes(key[1:3])


def state_key(shard: int) -> bytes:
    """The row of a shard's lease and intent; that of shard 0 has the manifest."""
    return b"s" + struct.pack(">H", shard)


def shard_of_state(key: bytes) -> int:
    """The shard in the key of its state."""
    return int(struct.unpack_from(">H", key, 1)[0])


STATES = Range(b"s", b"t")


def set_rows(table: str, ids: Keys, rows: Rows, stamp: int) -> list[bytes]:
    """Mutations that write rows, uint8[N, row_bytes], of ids; an empty row says that the id is deleted."""
    if not len(ids):
        return []
    keys = parameter_keys(table, ids)
    cells = _sealed_rows(rows) if rows.shape[1] else rows
    template = set_cell(_KEY_MARK * keys.shape[1], _VALUE_MARK * cells.shape[1], ROWS, COLUMN, stamp)
    return _filled(template, {_KEY_MARK: keys, _VALUE_MARK: cells})


def delete_rows(table: str, ids: Keys, first: int, end: int) -> list[bytes]:
    """Mutations that delete the cells of ids with stamps from ``first`` to before ``end``."""
    if not len(ids) or first >= end:
        return []
    keys = parameter_keys(table, ids)
    stamps = data.TimestampRange.pb()(start_timestamp_micros=1000 * first, end_timestamp_micros=1000 * end)
    column = Mutation.DeleteFromColumn(family_name=ROWS, column_qualifier=COLUMN, time_range=stamps)
    template = _entry(_KEY_MARK * keys.shape[1], Mutation(delete_from_column=column))
    return _filled(template, {_KEY_MARK: keys})


def delete_cell(key: bytes, stamp: int) -> bytes:
    """A mutation that deletes one version of a parameter."""
    stamps = data.TimestampRange.pb()(start_timestamp_micros=1000 * stamp, end_timestamp_micros=1000 * (stamp + 1))
    column = Mutation.DeleteFromColumn(family_name=ROWS, column_qualifier=COLUMN, time_range=stamps)
    return _entry(key, Mutation(delete_from_column=column))


def delete_row(key: bytes) -> bytes:
    """A mutation that deletes all of a row."""
    return _entry(key, Mutation(delete_from_row=Mutation.DeleteFromRow()))


def set_cell(key: bytes, value: bytes, family: str = STATE, column: bytes = COLUMN, stamp: int = 0) -> bytes:
    """A mutation that writes one cell."""
    return _entry(key, cell_mutation(value, family, column, stamp))


def cell_mutation(value: bytes, family: str, column: bytes, stamp: int = 0) -> Any:
    """The writing of a cell, of no row yet; BackendError where the service would refuse it."""
    if len(value) > MAX_CELL_BYTES:
        raise BackendError(f"a cell of {len(value)} bytes: at most {MAX_CELL_BYTES} are good for Bigtable")
    cell = Mutation.SetCell(family_name=family, column_qualifier=column, timestamp_micros=1000 * stamp, value=value)
    return Mutation(set_cell=cell)


def sealed(value: bytes) -> bytes:
    """A value with its checksum after it."""
    return value + _CRC.pack(zlib.crc32(value))


def unsealed(key: bytes, value: bytes) -> bytes:
    """What ``sealed`` was given; CorruptError names the row's key."""
    check_sealed([key], [value])
    return value[: -_CRC.size]


def check_sealed(keys: Sequence[bytes], values: Iterable[bytes]) -> None:
    """CorruptError names the key of a value whose checksum is wrong."""
    for key, value in zip(keys, values, strict=True):
        if zlib.crc32(value) != _CRC_OF_ITSELF:
            raise CorruptError(
                f"row {key!r}: checksum of its {len(value)} bytes is wrong; restore the store from a copy"
            )


def _sealed_rows(rows: Rows) -> Rows:
    width = rows.shape[1]
    flat = rows.tobytes()
    sums = np.array([zlib.crc32(flat[at : at + width]) for at in range(0, len(flat), width)], "<u4")
    return np.concatenate([rows, sums.view(np.uint8).reshape(-1, 4)], axis=1)


def _entry(key: bytes, mutation: Any) -> bytes:
    """An entry as it stands in a request: a request's bytes are those of its parts, one after the other."""
    if len(key) > MAX_KEY_BYTES:
        raise BackendError(f"a row key of {len(key)} bytes: Bigtable takes at most {MAX_KEY_BYTES}")
    return bytes(_Request(entries=[_Entry(row_key=key, mutations=[mutation])]).SerializeToString())


def _filled(template: bytes, fields: dict[bytes, Rows]) -> list[bytes]:
    """The template once for every row of the fields, which take the places of their marks.

    A message for each would cost ten times as much.
    """
    width = len(template)
    entries = np.empty((len(next(iter(fields.values()))), width), np.uint8)
    entries[:] = np.frombuffer(template, np.uint8)
    for mark, values in fields.items():
        start = template.index(mark * values.shape[1])
        entries[:, start : start + values.shape[1]] = values
    flat = entries.tobytes()
    return [flat[at : at + width] for at in range(0, len(flat), width)]
