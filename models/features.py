"""From the columns of a block to feature ids and numbers: the same code for training and serving.

A feature id (fid) is ``slot << 48 | low 48 bits of the value's hash``. The type of a value is part of it: the int 42
and the string "42" are different ids, and so are 42 and 42.0, unless the slot says ``cast``. A bool is the int 0 or
1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from monobeam.models.config import Config, NumericConfig, SlotConfig
from monobeam.native import hash_column, hash_ints
from monobeam.store.bags import Bags
from monobeam.store.spec import SLOT_SHIFT

HASH_SEED = 0  # fixed: ids are stored, so a value must keep its id for ever
MAX_CROSS_IDS = 10_000  # of one row; fixed, as training and serving must take the same ids of a row
_VALUE_MASK = np.uint64(2**SLOT_SHIFT - 1)
_CROSS_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that hashing the left side loses nothing
_POLARS_TYPES = {"string": pl.String(), "int": pl.Int64(), "double": pl.Float64()}

Uint64s = npt.NDArray[np.uint64]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Encoded:
    """A block as the model takes it: ``bags`` slot-major (bag ``s * B + b``), ``numeric`` float32 [B, K]."""

    bags: Bags
    numeric: npt.NDArray[np.float32]


@dataclass(frozen=True)
class _Hashes:
    """Hashes of one column's values: those of row b lie at offsets[b] .. offsets[b + 1]."""

    values: Uint64s
    offsets: Int64s

    def take(self, rows: Int64s) -> _Hashes:
        """The rows at these indices, -1 for an empty one."""
        lengths = np.where(rows < 0, 0, np.append(np.diff(self.offsets), 0)[rows])
        offsets = _offsets(lengths)
        shift = np.repeat(self.offsets[rows] - offsets[:-1], lengths)
        return _Hashes(self.values[np.arange(offsets[-1]) + shift], offsets)


class FeatureEncoder:
    """Encodes blocks by a configuration; it holds no state, so an id is a pure function of slot and value."""

    def __init__(self, config: Config) -> None:
        self._slots = config.slots
        self._numerics = config.numerics

    def encode(self, batch: pa.RecordBatch) -> Encoded:
        """Ids and numbers of the B rows; a missing column, a null or an empty list is an empty bag, or the number 0.

        A list gives a bag of several ids, a cross every combination of its features' values: of each row the first
        ``MAX_CROSS_IDS``, the last feature's values changing fastest. ValueError where a column's type cannot be a
        feature. Of a dictionary column each value is hashed once, however often it is repeated.
        """
        rows, columns = batch.num_rows, [_slot_hashes(batch, slot) for slot in self._slots]
        keys = np.empty(sum(len(hashes.values) for hashes in columns), np.uint64)
        offsets = np.zeros(len(columns) * rows + 1, np.int64)
        start = 0
        for number, (slot, hashes) in enumerate(zip(self._slots, columns, strict=True)):
            ids = keys[start : start + len(hashes.values)]
            np.bitwise_and(hashes.values, _VALUE_MASK, out=ids)
            np.bitwise_or(ids, np.uint64(slot.slot << SLOT_SHIFT), out=ids)
            np.add(hashes.offsets[1:], start, out=offsets[number * rows + 1 : (number + 1) * rows + 1])
            start += len(ids)
        numeric = np.zeros((rows, len(self._numerics)), np.float32)
        for column, config in enumerate(self._numerics):
            numeric[:, column] = _numbers(batch, config)
        return Encoded(Bags(keys, offsets), numeric)


def _slot_hashes(batch: pa.RecordBatch, slot: SlotConfig) -> _Hashes:
    hashes = _column_hashes(batch, slot.features[0], slot.cast)
    for feature in slot.features[1:]:
        hashes = _crossed(hashes, _column_hashes(batch, feature, slot.cast))
    return hashes


def _column_hashes(batch: pa.RecordBatch, feature: str, cast: str | None) -> _Hashes:
    index = batch.schema.get_field_index(feature)
    column = batch.column(index) if index >= 0 else pa.nulls(batch.num_rows)
    if pa.types.is_dictionary(column.type):
        return _hashes(feature, column.dictionary, cast).take(_places(column))
    return _hashes(feature, column, cast)


def _hashes(feature: str, column: pa.Array, cast: str | None) -> _Hashes:
    if pa.types.is_null(column.type):
        return _Hashes(np.empty(0, np.uint64), np.zeros(len(column) + 1, np.int64))
    values, offsets = _flattened(column)
    if cast is not None:
        values = pl.Series(values).cast(_POLARS_TYPES[cast], strict=False).to_arrow()
    if values.null_count:
        kept = np.asarray(values.is_valid())
        values, offsets = values.drop_null(), _offsets(kept)[offsets]
    try:
        return _Hashes(hash_column(values, HASH_SEED), offsets)
    except TypeError as error:
        raise ValueError(f"feature {feature!r}: {column.type} cannot be a feature: {error}") from error


def _flattened(column: pa.Array) -> tuple[pa.Array, Int64s]:
    """The values of a column, nulls among them, and where each row's begin; a plain value is a list of one."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        lengths = pc.list_value_length(column).fill_null(0)
        column, offsets = column.flatten(), _offsets(np.asarray(lengths))
    else:
        offsets = np.arange(len(column) + 1, dtype=np.int64)
    return (column.dictionary_decode() if pa.types.is_dictionary(column.type) else column), offsets


def _crossed(left: _Hashes, right: _Hashes) -> _Hashes:
    """Hashes of every pair of a value of the left with one of the right, row by row, left-major.

    The first pairs of what is left of a longer cross are the first of the whole: it can be cut at every step.
    """
    widths = np.diff(right.offsets)
    offsets = _offsets(np.minimum(np.diff(left.offsets) * widths, MAX_CROSS_IDS))
    row = np.repeat(np.arange(len(widths)), np.diff(offsets))
    place = np.arange(offsets[-1]) - offsets[row]
    a = left.values[left.offsets[row] + place // widths[row]]
    b = right.values[right.offsets[row] + place % widths[row]]
    return _Hashes(hash_ints((a * _CROSS_FACTOR + b).view(np.int64), HASH_SEED), offsets)


def _places(column: pa.DictionaryArray) -> Int64s:
    """Where each row's value is in the dictionary; -1 for a null."""
    return np.asarray(column.indices.cast(pa.int64()).fill_null(-1))


def _offsets(lengths: npt.NDArray[np.generic]) -> Int64s:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _numbers(batch: pa.RecordBatch, config: NumericConfig) -> npt.NDArray[np.float32]:
    index = batch.schema.get_field_index(config.feature)
    if index < 0:
        return np.zeros(batch.num_rows, np.float32)
    column = batch.column(index)
    if pa.types.is_dictionary(column.type):
        return np.append(_transformed(column.dictionary, config), np.float32(0))[_places(column)]
    return _transformed(column, config)


def _transformed(column: pa.Array, config: NumericConfig) -> npt.NDArray[np.float32]:
    if pa.types.is_nested(column.type):
        raise ValueError(f"numeric {config.feature!r}: {column.type} is not a number")
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        column = pl.Series(column).cast(pl.Float64(), strict=False).to_arrow()
    values = np.asarray(column.cast(pa.float64(), safe=False))  # nulls become NaN
    if config.transform == "log1p":
        values = np.sign(values) * np.log1p(np.abs(values))
    numbers = ((values - config.shift) * config.scale).astype(np.float32)
    numbers[~np.isfinite(numbers)] = 0.0
    return numbers
