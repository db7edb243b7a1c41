"""Messages to chunks: which schema each has, and what is no record."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from confluent_kafka import Message

from monobeam.logs.kafka.address import Address
from monobeam.logs.kafka.registry import Registry, UnknownSchemaError
from monobeam.logs.log import Chunk, Part, fingerprint, parsed

SCHEMA_HEADER = "avro.schema"
REGISTERED = b"\x00"
"""Confluent's wire format: this, the schema's number in a registry (4 bytes, big endian), the datum."""
SINGLE_OBJECT = b"\xc3\x01"
"""Avro's single-object encoding: this, the schema's fingerprint (8 bytes, little endian), the datum."""


class Unreadable(Exception):  # noqa: N818 - of one message; never leaves this file
    """Why a message is no record."""


class Messages:
    """Turns messages of one topic into chunks."""

    def __init__(self, address: Address):
        self._schemas = [_schema_of(path) for path in address.schemas]
        self._by_fingerprint = {fingerprint(schema): schema for schema in self._schemas}
        self._registry = Registry(address.registry, address.registry_user()) if address.registry else None

    def chunks(self, partition: int, messages: Iterable[Message]) -> list[Chunk]:
        """Consecutive messages of one schema in a chunk each, one part for each message.

        A message that is no record is damaged; it has the schema of those before it, '' if it is the first.
        """
        chunks: list[Chunk] = []
        schema, first, payloads, parts = "", 0, list[bytes](), list[Part]()
        for message in messages:
            offset, value = message.offset(), message.value()
            assert offset is not None
            damage = ""
            try:
                found, datum = self._datum(value, message.headers())
            except Unreadable as error:
                found, datum, damage = schema, value or b"", str(error)
            if found != schema or offset != first + len(parts):
                if parts:
                    chunks.append(Chunk(partition, first, len(parts), schema, b"".join(payloads), tuple(parts)))
                schema, first, payloads, parts = found, offset, [], []
            payloads.append(datum)
            parts.append(Part(1, len(datum), damage))
        if parts:
            chunks.append(Chunk(partition, first, len(parts), schema, b"".join(payloads), tuple(parts)))
        return chunks

    def _datum(self, value: bytes | None, headers: Any) -> tuple[str, bytes]:
        """A message's schema and its datum."""
        if value is None:
            raise Unreadable("the message has no payload (a tombstone)")
        for name, header in headers or ():
            if name == SCHEMA_HEADER and header is not None:
                return _text(header), value
        if self._registry and value[:1] == REGISTERED and len(value) >= 5:
            try:
                return self._registry.schema(int.from_bytes(value[1:5], "big")), value[5:]
            except UnknownSchemaError as error:
                raise Unreadable(str(error)) from error
        if value[:2] == SINGLE_OBJECT and (schema := self._by_fingerprint.get(value[2:10])):
            return schema, value[10:]
        if self._schemas:
            return self._schemas[0], value
        wire = "is not in the registry's wire format" if self._registry else "the log has no ?schema.registry="
        raise Unreadable(f"no schema is known: no header {SCHEMA_HEADER}, the log has no ?schema=, and {wire}")


@lru_cache(maxsize=256)
def _text(header: bytes | str) -> str:
    schema = header if isinstance(header, str) else header.decode(errors="replace")
    try:
        parsed(schema)
    except ValueError as error:
        raise Unreadable(f"its header {SCHEMA_HEADER} is no Avro schema: {error}") from error
    return schema


def _schema_of(path: str) -> str:
    """The schema in a file; ValueError, naming it, if there is none."""
    try:
        schema = Path(path).read_text()
        parsed(schema)
    except (OSError, ValueError) as error:
        raise ValueError(f"?schema={path}: {error}") from error
    return schema
