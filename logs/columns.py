"""Raw records to blocks: impressions and actions as columns, and what cannot be used told apart with the reason."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from monobeam.logs import block
from monobeam.logs.datums import Datums
from monobeam.logs.fields import TIME_UNITS, Field, Fields, SchemaError, fields
from monobeam.logs.log import Chunk

logger = logging.getLogger(__name__)

DAY_US = 86_400_000_000


@dataclass(frozen=True)
class Reject:
    """Records that cannot be used: where they are, how many, why, and their bytes."""

    partition: int
    offset: int
    count: int
    reason: str
    payload: bytes


@dataclass(frozen=True)
class Decoded:
    """A chunk's usable records as one batch, and the others: batch.num_rows + the rejects' counts = chunk.count."""

    batch: pa.RecordBatch
    rejects: tuple[Reject, ...]


def impressions(chunk: Chunk, log: str, now_us: int) -> Decoded:
    """Columns `_id` string, `_time` int64 (microseconds), `_partition` int32, `_offset` int64, then the features.

    Features keep their names; they are bool, int64, double, string, or lists of int64, double or string, and may be
    null. Fields of other types are no features and are left out. Rejected: undecodable; an id that is empty or null; a
    time that is null, not after 1970 or more than a day after ``now_us``. Never raises on what a log may hold.
    """
    return _decode(chunk, log, "impressions", now_us)


def actions(chunk: Chunk, log: str, now_us: int) -> Decoded:
    """Columns `_id`, `_time`, `_type` string, `_value` double, `_arrival` int64, `_partition`, `_offset`.

    A value that is null or that the schema does not have is 1; `_arrival` is the record's ingest_time (microseconds),
    or ``now_us`` without one. Rejected: as for impressions; a type that is empty or null; a value that is
    not finite.
    """
    return _decode(chunk, log, "actions", now_us)


def check_schema(schema: str, kind: str) -> None:
    """SchemaError if no record with a schema can be one of ``kind`` (impressions | actions)."""
    _datums(schema, kind)


def latest_time(chunk: Chunk) -> int | None:
    """The latest `time` in a chunk, in microseconds; None if it has none that can be decoded."""
    values, (many, one) = _raw_times(chunk)
    time = pc.max(values).as_py()
    return None if time is None else int(time) * many // one


def usable_times(chunk: Chunk, now_us: int) -> npt.NDArray[np.int64]:
    """Each `time` in a chunk that a record which is not rejected at ``now_us`` may have: int64, in microseconds."""
    values, (many, one) = _raw_times(chunk)
    found: npt.NDArray[np.int64] = values.drop_null().to_numpy(zero_copy_only=False).astype(np.int64)
    return found[(found > 0) & (found <= (now_us + DAY_US) * one // many)] * many // one


def _raw_times(chunk: Chunk) -> tuple[pa.Array, tuple[int, int]]:
    """What can be decoded, and its unit as a fraction of microseconds."""
    try:
        found = fields(chunk.schema)
        field = _time_field(found, "time")
    except SchemaError:
        return pa.array([], pa.int64()), (1, 1)
    return Datums(chunk.schema, found).decode(chunk).arrays[field.name], TIME_UNITS[field.unit]


class _Faults:
    """Why rows cannot be used: the first reason found for each."""

    def __init__(self) -> None:
        self.reasons: dict[int, str] = {}

    def add(self, faulty: npt.NDArray[np.bool_], name: str, values: pa.Array, rule: str) -> None:
        """Mark rows whose value of a field breaks a rule."""
        for row in np.flatnonzero(faulty).tolist():
            self.reasons.setdefault(row, f"{name} {values[row].as_py()!r}: must {rule}")


def _decode(chunk: Chunk, log: str, kind: str, now_us: int) -> Decoded:
    try:
        datums = _datums(chunk.schema, kind)
    except SchemaError as error:
        return Decoded(block.label(_EMPTY[kind], kind, log), tuple(_all_rejected(chunk, f"schema: {error}")))
    if kind == "impressions":
        _warn_of_left_out(chunk.schema, log)
    columns = datums.decode(chunk)
    faults = _Faults()
    head, features = _BUILD[kind](datums.fields, columns.arrays, now_us, faults)
    place = {
        "_partition": pa.array(np.full(len(columns.index), chunk.partition, np.int32)),
        "_offset": pa.array(columns.index + chunk.offset),
    }
    batch = block.label(pa.RecordBatch.from_pydict(head | place | features), kind, log)
    rejects = [
        Reject(chunk.partition, chunk.offset + bad.first, bad.count, bad.reason, bad.payload) for bad in columns.bad
    ]
    if faults.reasons:
        rows = sorted(faults.reasons)
        keep = np.ones(batch.num_rows, np.bool_)
        keep[rows] = False
        batch = batch.filter(pa.array(keep))
        places = columns.index[rows].tolist()
        for row, at, payload in zip(rows, places, datums.payloads(chunk, places), strict=True):
            rejects.append(Reject(chunk.partition, chunk.offset + at, 1, faults.reasons[row], payload))
    return Decoded(batch, tuple(sorted(rejects, key=lambda reject: reject.offset)))


def _all_rejected(chunk: Chunk, reason: str) -> Iterator[Reject]:
    """All records for one reason; but if parts of them are damaged, each part for its own."""
    if not any(part.damage for part in chunk.parts):
        yield Reject(chunk.partition, chunk.offset, chunk.count, reason, chunk.payload)
        return
    for part, damage in chunk.split():
        why = f"undecodable: {damage}" if damage else reason
        yield Reject(part.partition, part.offset, part.count, why, part.payload)


@lru_cache(maxsize=256)
def _datums(schema: str, kind: str) -> Datums:
    """How to decode a schema for a kind; SchemaError if records of that kind cannot have it."""
    found = fields(schema)
    _field(found, "impression_id", "string", "long", "int")
    _time_field(found, "time")
    if kind == "actions":
        _field(found, "type", "string")
        if _has(found, "value"):
            _field(found, "value", "double", "float", "long", "int")
        if _has(found, "ingest_time"):
            _time_field(found, "ingest_time")
    else:
        _check_names(found)
    return Datums(schema, found)


def _check_names(found: Fields) -> None:
    if reserved := [name for name in (*found.columns, *found.others) if name.startswith("_")]:
        raise SchemaError(f"feature {reserved[0]!r}: names that start with '_' are reserved")


@lru_cache(maxsize=256)
def _warn_of_left_out(schema: str, log: str) -> None:
    """Once for each schema of a log."""
    if others := fields(schema).others:
        left_out = ", ".join(f"{name} {kind}" for name, kind in others.items())
        logger.warning("%s: no feature can have these types, and decoding is slow: %s", log, left_out)


def _has(found: Fields, name: str) -> bool:
    return name in found.columns or name in found.others


def _field(found: Fields, name: str, *bases: str) -> Field:
    field = found.columns.get(name)
    if field is None or field.is_list or field.base not in bases:
        kind = found.others.get(name, "missing") if field is None else f"{field.base}{' list' * field.is_list}"
        raise SchemaError(f"field {name!r} is {kind}: must be {' or '.join(bases)}")
    return field


def _time_field(found: Fields, name: str) -> Field:
    field = _field(found, name, "long")
    if not field.unit:
        raise SchemaError(f"field {name!r} is a plain long: must be timestamp-millis or timestamp-micros")
    return field


_Arrays = dict[str, pa.Array]


def _impressions(found: Fields, arrays: _Arrays, now_us: int, faults: _Faults) -> tuple[_Arrays, _Arrays]:
    features = {name: array for name, array in arrays.items() if name not in ("impression_id", "time")}
    return {"_id": _ids(arrays, faults), "_time": _times(found, arrays, now_us, faults)}, features


def _actions(found: Fields, arrays: _Arrays, now_us: int, faults: _Faults) -> tuple[_Arrays, _Arrays]:
    ids, times = _ids(arrays, faults), _times(found, arrays, now_us, faults)
    kinds = arrays["type"]
    faults.add(_empty_or_null(kinds), "type", kinds, "not be empty")
    head = {"_id": ids, "_time": times, "_type": kinds}
    head["_value"] = _values(arrays.get("value"), len(ids), faults)
    head["_arrival"] = _arrivals(found, arrays.get("ingest_time"), len(ids), now_us)
    return head, {}


_BUILD: dict[str, Callable[[Fields, _Arrays, int, _Faults], tuple[_Arrays, _Arrays]]] = {
    "impressions": _impressions,
    "actions": _actions,
}


def _ids(arrays: _Arrays, faults: _Faults) -> pa.Array:
    ids = arrays["impression_id"].cast(pa.string())
    faults.add(_empty_or_null(ids), "impression_id", ids, "not be empty")
    return ids


def _times(found: Fields, arrays: _Arrays, now_us: int, faults: _Faults) -> pa.Array:
    times = arrays["time"]
    ticks = _int64(pc.fill_null(times, 0))
    many, one = TIME_UNITS[found.columns["time"].unit]
    # Compared in the record's own unit: a garbled time may not fit into microseconds.
    faulty = (ticks <= 0) | (ticks > (now_us + DAY_US) * one // many)
    faults.add(faulty, "time", times, "be after 1970 and not more than a day ahead")
    return pa.array(np.where(faulty, 0, ticks) * many // one)


def _values(values: pa.Array | None, count: int, faults: _Faults) -> pa.Array:
    if values is None:
        return pa.array(np.ones(count))
    values = values.cast(pa.float64(), safe=False)
    faults.add(_mask(pc.fill_null(pc.invert(pc.is_finite(values)), False)), "value", values, "be finite")
    return pc.fill_null(values, 1.0)


def _arrivals(found: Fields, times: pa.Array | None, count: int, now_us: int) -> pa.Array:
    if times is None:
        return pa.array(np.full(count, now_us, np.int64))
    many, one = TIME_UNITS[found.columns["ingest_time"].unit]
    ticks = _int64(pc.fill_null(times, 0))
    # It is only measured with: one that cannot be true is as good as none.
    known = (ticks > 0) & (ticks <= (now_us + DAY_US) * one // many)
    return pa.array(np.where(known, np.where(known, ticks, 0) * many // one, now_us))


def _empty_or_null(strings: pa.Array) -> npt.NDArray[np.bool_]:
    return _mask(pc.fill_null(pc.equal(strings, ""), True))


def _mask(array: pa.Array) -> npt.NDArray[np.bool_]:
    return array.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _int64(array: pa.Array) -> npt.NDArray[np.int64]:
    return array.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]


def _empty(**columns: pa.DataType) -> pa.RecordBatch:
    return pa.RecordBatch.from_pydict({name: pa.array([], kind) for name, kind in columns.items()})


_EMPTY = {
    "impressions": _empty(_id=pa.string(), _time=pa.int64(), _partition=pa.int32(), _offset=pa.int64()),
    "actions": _empty(
        _id=pa.string(),
        _time=pa.int64(),
        _type=pa.string(),
        _value=pa.float64(),
        _arrival=pa.int64(),
        _partition=pa.int32(),
        _offset=pa.int64(),
    ),
}
