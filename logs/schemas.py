"""Avro schemas: of the logs that monobeam writes, and defaults for those that it reads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def _record(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "record",
        "name": name,
        "namespace": "monobeam",
        "fields": [{"name": field, "type": kind} for field, kind in fields.items()],
    }


MICROS = {"type": "long", "logicalType": "timestamp-micros"}

# One record is one block of examples: Arrow IPC bytes.
EXAMPLES = _record("Examples", {"shard": "int", "tick": "long", "count": "int", "block": "bytes"})

# What could not be used: where it was, how many records, why, and the bytes themselves; time: when it was set aside.
DEAD_LETTERS = _record(
    "DeadLetter",
    {
        "log": "string",
        "partition": "int",
        "offset": "long",
        "count": "int",
        "reason": "string",
        "time": "long",
        "payload": "bytes",
    },
)

# What a component measured up to a position of what it works through.
METRICS = _record(
    "Metrics",
    {
        "component": "string",
        "key": "string",
        "position": "long",
        "time": "long",
        "values": {"type": "map", "values": "double"},
        "arrays": {"type": "map", "values": {"type": "array", "items": "double"}},
    },
)

# Something that somebody did with what an impression showed.
ACTIONS = _record(
    "Action",
    {
        "impression_id": "string",
        "time": MICROS,
        "type": "string",
        "value": ["null", "double"],
        "ingest_time": ["null", MICROS],
    },
)


def impressions(features: Mapping[str, Any]) -> dict[str, Any]:
    """A schema of impressions with the given features: name -> Avro type."""
    return _record("Impression", {"impression_id": "string", "time": MICROS, **features})
