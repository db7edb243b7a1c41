"""What an Avro schema says of a log's records: which fields become columns, of which type, and how they are encoded."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import fastavro
import pyarrow as pa

COLUMN_TYPES = {
    "boolean": pa.bool_(),
    "int": pa.int64(),
    "long": pa.int64(),
    "float": pa.float64(),
    "double": pa.float64(),
    "string": pa.string(),
}
# Of a time's unit: how many microseconds it has, and how many of it make one.
TIME_UNITS = {"millis": (1000, 1), "micros": (1, 1), "nanos": (1, 1000)}


class SchemaError(ValueError):
    """A schema that a log of this kind cannot have."""


@dataclass(frozen=True)
class Field:
    """A field that becomes a column.

    ``base``: its Avro type, or its items', an enum's being "string"; ``symbols``: an enum's, by index; ``wire``: an
    Avro type with the same encoding that polars reads (an enum as the int that it is, a time as a long);
    ``unit``: of a time, '' for others.
    """

    name: str
    base: str
    is_list: bool
    symbols: tuple[str, ...]
    wire: Any
    unit: str

    @property
    def type(self) -> pa.DataType:
        """The column's type: bool, int64, double, string, or a list of one of the last three."""
        if not self.is_list:
            return COLUMN_TYPES[self.base]
        return pa.list_(pa.int64() if self.base == "boolean" else COLUMN_TYPES[self.base])


@dataclass(frozen=True)
class Fields:
    """The fields of a schema: those that become columns, by name, and the names of the others with their types."""

    columns: dict[str, Field]
    others: dict[str, str]


def fields(schema: str) -> Fields:
    """Look at a record schema in JSON; SchemaError if it is none."""
    try:
        record = fastavro.schema.expand_schema(json.loads(schema))
    except (ValueError, TypeError, KeyError, AttributeError, fastavro.schema.SchemaParseException) as error:
        raise SchemaError(f"schema {schema[:200]}: {error!r}") from error
    if not isinstance(record, dict) or record.get("type") != "record":
        raise SchemaError(f"schema {schema[:200]}: must be a record")
    columns: dict[str, Field] = {}
    others: dict[str, str] = {}
    for entry in record["fields"]:
        field = _field(entry["name"], entry["type"])
        if field:
            columns[field.name] = field
        else:
            others[entry["name"]] = json.dumps(entry["type"], default=str)
    return Fields(columns, others)


def _field(name: str, avro: Any) -> Field | None:
    inner = _present(avro)
    is_list = isinstance(inner, dict) and inner.get("type") == "array"
    item = _present(inner["items"]) if is_list else inner
    described = item if isinstance(item, dict) else {"type": item}
    base, wire, symbols = described["type"], described["type"], ()
    if base == "enum":
        base, wire, symbols = "string", "int", tuple(described["symbols"])
    if not isinstance(base, str) or base not in COLUMN_TYPES:
        return None
    unit = "" if is_list else str(described.get("logicalType", "")).removeprefix("timestamp-")
    if is_list:
        wire = {"type": "array", "items": _in_place(inner["items"], wire)}
    return Field(name, base, is_list, symbols, _in_place(avro, wire), unit if unit in TIME_UNITS else "")


def _present(avro: Any) -> Any:
    """The type of a value that may be null; None for a union of several types."""
    if not isinstance(avro, list):
        return avro
    return next(branch for branch in avro if branch != "null") if len(avro) == 2 and "null" in avro else None


def _in_place(avro: Any, wire: Any) -> Any:
    """The same as ``avro``, a union with null perhaps, with ``wire`` for its value."""
    return [branch if branch == "null" else wire for branch in avro] if isinstance(avro, list) else wire
