"""Sync events: what one commit changed in a shard, for replicas, and their Avro records.

Events carry values, not differences: applying one twice changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from monobeam.store.bags import Floats, Keys
from monobeam.store.spec import DTYPES

SYNC: dict[str, Any] = {
    "type": "record",
    "name": "SyncEvent",
    "namespace": "monobeam",
    "doc": "What one commit changed in a shard. Arrays are little-endian bytes.",
    "fields": [
        {"name": "model", "type": "string"},
        {"name": "shard", "type": "int"},
        {"name": "epoch", "type": "long", "doc": "of this commit: milliseconds since 1970, strictly rising"},
        {"name": "previous_epoch", "type": "long", "doc": "what this event follows; 0 before the first"},
        {"name": "time", "type": "long", "doc": "of the commit, microseconds since 1970"},
        {"name": "dtype", "type": "string", "doc": "of the values: fp32, fp16 or bf16"},
        {
            "name": "tables",
            "type": {
                "type": "array",
                "items": {
                    "type": "record",
                    "name": "TableChange",
                    "fields": [
                        {"name": "name", "type": "string"},
                        {"name": "dim", "type": "int"},
                        {"name": "keys", "type": "bytes", "doc": "uint64[n]"},
                        {"name": "values", "type": "bytes", "doc": "dtype[n, dim]"},
                        {"name": "deletes", "type": "bytes", "doc": "uint64[d]"},
                    ],
                },
            },
        },
        {"name": "dense_version", "type": "long", "doc": "of the dense weights in force"},
        {"name": "dense", "type": ["null", "bytes"], "doc": "new dense weights: an Arrow IPC stream"},
        {
            "name": "arrivals",
            "type": "bytes",
            "doc": "int64[n], when the actions in it arrived, microseconds since 1970",
        },
    ],
}

_FP16_MAX = 65504.0


@dataclass(frozen=True, eq=False)
class TableChange:
    """New embeddings and deleted ids of a table: uint64[N], float32[N, dim], uint64[D]."""

    keys: Keys
    values: Floats
    deletes: Keys


@dataclass(frozen=True, eq=False)
class SyncEvent:
    """What a commit changed in one shard.

    ``dtype`` is how values are written; ``dense``: newly published dense weights (``monobeam.store.dense``);
    ``arrivals``: int64 microseconds, when the actions that this commit learnt from arrived.
    """

    model: str
    shard: int
    epoch: int
    previous_epoch: int
    time_us: int
    tables: Mapping[str, TableChange]
    dense_version: int
    dense: bytes | None = None
    arrivals: npt.NDArray[np.int64] = field(default_factory=lambda: np.empty(0, np.int64))
    dtype: str = "fp32"

    def to_record(self) -> dict[str, Any]:
        """The event as a record of the Avro schema SYNC."""
        pack = codec(self.dtype)[0]
        tables = [
            {
                "name": name,
                "dim": change.values.shape[1],
                "keys": change.keys.astype("<u8", copy=False).tobytes(),
                "values": pack(change.values),
                "deletes": change.deletes.astype("<u8", copy=False).tobytes(),
            }
            for name, change in sorted(self.tables.items())
        ]
        return {
            "model": self.model,
            "shard": self.shard,
            "epoch": self.epoch,
            "previous_epoch": self.previous_epoch,
            "time": self.time_us,
            "dtype": self.dtype,
            "tables": tables,
            "dense_version": self.dense_version,
            "dense": self.dense,
            "arrivals": self.arrivals.astype("<i8", copy=False).tobytes(),
        }

    @staticmethod
    def from_record(record: Mapping[str, Any]) -> SyncEvent:
        """The event in a record; its values are float32 whatever they were written as. ValueError where it is none."""
        unpack = codec(record["dtype"])[1]
        return SyncEvent(
            model=record["model"],
            shard=record["shard"],
            epoch=record["epoch"],
            previous_epoch=record["previous_epoch"],
            time_us=record["time"],
            tables={table["name"]: _table(table, unpack) for table in record["tables"]},
            dense_version=record["dense_version"],
            dense=record["dense"],
            arrivals=np.frombuffer(record["arrivals"], "<i8"),
            dtype=record["dtype"],
        )


def _table(table: Mapping[str, Any], unpack: Callable[[bytes], Floats]) -> TableChange:
    keys = np.frombuffer(table["keys"], "<u8")
    values = unpack(table["values"])
    if len(values) != len(keys) * table["dim"]:
        raise ValueError(f"table {table['name']!r}: {len(values)} values for {len(keys)} rows of {table['dim']}")
    return TableChange(keys, values.reshape(len(keys), table["dim"]), np.frombuffer(table["deletes"], "<u8"))


def codec(dtype: str) -> tuple[Callable[[Floats], bytes], Callable[[bytes], Floats]]:
    """How values of a dtype are packed and unpacked; ValueError where it is none."""
    if dtype not in _CODECS:
        raise ValueError(f"dtype {dtype!r}: must be one of {DTYPES}")
    return _CODECS[dtype]


def _pack_fp32(values: Floats) -> bytes:
    return values.astype("<f4", copy=False).tobytes()


def _unpack_fp32(data: bytes) -> Floats:
    return np.frombuffer(data, "<f4")


def _pack_fp16(values: Floats) -> bytes:
    """Nearest; what is too large becomes the largest, as an infinite weight would spoil every prediction."""
    return np.clip(values, -_FP16_MAX, _FP16_MAX).astype("<f2").tobytes()


def _unpack_fp16(data: bytes) -> Floats:
    return np.frombuffer(data, "<f2").astype(np.float32)


def _pack_bf16(values: Floats) -> bytes:
    """The upper half of a float32, rounded to nearest, ties to even; a NaN stays one."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    quiet = (bits >> np.uint32(16)) | np.uint32(0x40)
    return np.where(np.isnan(values), quiet, rounded).astype("<u2").tobytes()


def _unpack_bf16(data: bytes) -> Floats:
    return (np.frombuffer(data, "<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)


_CODECS: Mapping[str, tuple[Callable[[Floats], bytes], Callable[[bytes], Floats]]] = {
    "fp32": (_pack_fp32, _unpack_fp32),
    "fp16": (_pack_fp16, _unpack_fp16),
    "bf16": (_pack_bf16, _unpack_bf16),
}
