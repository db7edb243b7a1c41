"""Datums in bulk: concatenated Avro records to Arrow columns, quickly if they are what they should be, else one by one.

polars reads Avro 20 times faster than Python can, but knows only some types, does not notice bytes left over, and
panics where others raise. So it is handed a container of our own making with one more datum, the sentinel, after each
part: if that comes out as it went in, every byte before it was accounted for. If anything is amiss, fastavro walks
through the same bytes record by record and says where and why. (Of a panic a line on standard error remains.)
"""

from __future__ import annotations

import io
import json
import os
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monobeam.logs.container import encode_header, encode_long
from monobeam.logs.fields import Field, Fields
from monobeam.logs.log import UNDECODABLE, Chunk, Part

# Blocks are small and many processes decode at once: a thread pool in each would only be in the way.
os.environ.setdefault("POLARS_MAX_THREADS", "1")
import polars as pl  # reads the environment when imported

MARKER = bytes(range(16))
# A garbled length mostly points not far beyond the end: into zeros it ends in a wrong sentinel, not in a panic.
PADDING = bytes(64 << 10)
SENTINELS = {
    "boolean": True,
    "int": -0x5EED,
    "long": -0x5EED5EED5EED,
    "float": -0.5,
    "double": -0.5,
    "string": "\x01\x02",
}


@dataclass(frozen=True)
class Bad:
    """Records that could not be decoded: from index ``first`` in the chunk on, ``count`` of them."""

    first: int
    count: int
    reason: str
    payload: bytes


@dataclass(frozen=True)
class Columns:
    """What could be decoded of a chunk.

    ``arrays``: by field name, one row per record; ``index``: int64, each row's place in the chunk.
    """

    arrays: dict[str, pa.Array]
    index: np.ndarray[Any, np.dtype[np.int64]]
    bad: tuple[Bad, ...] = ()


class Datums:
    """Decodes the datums of one schema."""

    def __init__(self, schema: str, fields: Fields):
        self.schema = schema
        self.fields = fields

    def decode(self, chunk: Chunk) -> Columns:
        """The chunk's records as columns; what cannot be decoded is told apart, part by part."""
        # A count beyond the bytes can only be garbled, and polars would make room for so many rows.
        is_plain = not self.fields.others and chunk.count <= len(chunk.payload)
        if is_plain and not any(part.damage for part in chunk.parts):
            arrays = self._in_bulk(chunk)
            if arrays is not None:
                return Columns(arrays, np.arange(chunk.count))
        return self._one_by_one(chunk)

    def _in_bulk(self, chunk: Chunk) -> dict[str, pa.Array] | None:
        """All of the chunk, or None if there is anything unusual about it."""
        parts = chunk.parts or (Part(chunk.count, len(chunk.payload)),)  # no chunk of each: in Kafka a part is a record
        bounds = accumulate((part.size for part in parts), initial=0)
        payloads = [chunk.payload[start:end] for start, end in pairwise(bounds)]
        # The rows at which the sentinels must be: one after each part.
        sentinels = np.cumsum([part.count + 1 for part in parts]) - 1
        frame = self._frame(payloads, chunk.count + len(parts))
        if frame is None or not self._are_sentinels(frame[sentinels]):
            return None
        arrays = {}
        for field in self.fields.columns.values():
            array = _normal(field, frame.get_column(field.name).to_arrow())
            if array is None:
                return None
            arrays[field.name] = array
        if len(parts) == 1:
            return {name: array.slice(0, chunk.count) for name, array in arrays.items()}
        keep = np.ones(frame.height, np.bool_)
        keep[sentinels] = False
        return {name: array.filter(pa.array(keep)) for name, array in arrays.items()}

    def _are_sentinels(self, rows: pl.DataFrame) -> bool:
        """Whether all rows are the sentinel's."""
        for name, value in zip(self.fields.columns, self._sentinel_row, strict=True):
            column = rows.get_column(name)
            are_equal = column.list.len() == 0 if isinstance(value, list) else column == value
            if not are_equal.all(ignore_nulls=False):
                return False
        return True

    def _frame(self, payloads: Sequence[bytes], rows: int) -> pl.DataFrame | None:
        """The payloads, a sentinel after each, as polars reads them; None if it cannot."""
        body = b"".join([piece for payload in payloads for piece in (payload, self._sentinel)] + [PADDING])
        block = (encode_long(rows), encode_long(len(body)), body, MARKER)
        try:
            frame = pl.read_avro(io.BytesIO(self._header + b"".join(block)))
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError):
            return None
        return frame if frame.height == rows else None

    @cached_property
    def _wire(self) -> dict[str, Any]:
        entries = [{"name": field.name, "type": field.wire} for field in self.fields.columns.values()]
        return {"type": "record", "name": "Wire", "fields": entries}

    @cached_property
    def _header(self) -> bytes:
        return encode_header(self._wire, "null", MARKER)

    @cached_property
    def _sentinel_row(self) -> tuple[Any, ...]:
        return tuple(
            [] if field.is_list else (0 if field.symbols else SENTINELS[field.base])
            for field in self.fields.columns.values()
        )

    @cached_property
    def _sentinel(self) -> bytes:
        sink = io.BytesIO()
        record = dict(zip(self.fields.columns, self._sentinel_row, strict=True))
        fastavro.schemaless_writer(sink, fastavro.parse_schema(self._wire), record)
        return sink.getvalue()

    def _one_by_one(self, chunk: Chunk) -> Columns:
        rows: list[dict[str, Any]] = []
        index: list[int] = []
        bad: list[Bad] = []
        for part, damage in chunk.split():
            first = part.offset - chunk.offset
            good, spoiled = self._walk(part, damage)
            rows += good
            index += range(first, first + len(good))
            if spoiled:
                start = first + len(good)
                bad.append(Bad(start, part.count - len(good), *spoiled))
        arrays = {}
        for name, field in self.fields.columns.items():
            values = [row[name] for row in rows]
            if field.is_list and field.base == "boolean":
                values = [[int(item) for item in value] if value else value for value in values]
            arrays[name] = pa.array(values, field.type)
        return Columns(arrays, np.array(index, np.int64), tuple(bad))

    def _walk(self, part: Chunk, damage: str) -> tuple[list[dict[str, Any]], tuple[str, bytes] | None]:
        """The records up to the first that cannot be decoded; why not, and the bytes from there on."""
        if damage:
            return [], (f"undecodable: {damage}", part.payload)
        data, rows = io.BytesIO(part.payload), []
        for _ in range(part.count):
            at = data.tell()
            try:
                rows.append(fastavro.schemaless_reader(data, self._plain, None))
            except UNDECODABLE as error:
                rest = part.payload[at:]
                return rows, (f"undecodable: {rest[:16].hex() or 'no bytes'}: {error!r}", rest)
        if left := len(part.payload) - data.tell():
            reason = (
                f"undecodable: {left} bytes left over after {part.count} records: {part.payload[-left:][:16].hex()}"
            )
            return [], (reason, part.payload)
        return rows, None

    @cached_property
    def _plain(self) -> Any:
        return fastavro.parse_schema(_without_logical_types(json.loads(self.schema)))

    def payloads(self, chunk: Chunk, index: Sequence[int]) -> list[bytes]:
        """The bytes of single records, by their places in the chunk, which ascend; each must be decodable."""
        found: list[bytes] = []
        for part, _ in chunk.split():
            first = part.offset - chunk.offset
            here = index[bisect_left(index, first) : bisect_left(index, first + part.count)]
            if here:
                bounds = self._bounds(part)
                found += [part.payload[bounds[place - first] : bounds[place - first + 1]] for place in here]
        return found

    def _bounds(self, part: Chunk) -> list[int]:
        data, bounds = io.BytesIO(part.payload), [0]
        for _ in range(part.count):
            try:
                fastavro.schemaless_reader(data, self._plain, None)
            except UNDECODABLE:
                return bounds + [len(part.payload)] * part.count
            bounds.append(data.tell())
        return bounds


def _without_logical_types(avro: Any) -> Any:
    if isinstance(avro, list):
        return [_without_logical_types(item) for item in avro]
    if isinstance(avro, dict):
        return {key: _without_logical_types(value) for key, value in avro.items() if key != "logicalType"}
    return avro


def _normal(field: Field, array: pa.Array) -> pa.Array | None:
    """A column as polars gives it in the type that it has in a block; None if it holds an impossible value."""
    if not field.symbols:
        return array if array.type == field.type else array.cast(field.type)
    if not field.is_list:
        return _named(field, array)
    items = _named(field, array.values)
    lists = array.cast(pa.list_(array.type.value_type))
    return None if items is None else pa.ListArray.from_arrays(lists.offsets, items, mask=lists.is_null())


def _named(field: Field, indices: pa.Array) -> pa.Array | None:
    bounds = pc.min_max(indices)
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    if low is not None and (low < 0 or high >= len(field.symbols)):
        return None
    return pa.array(field.symbols, pa.string()).take(indices)
