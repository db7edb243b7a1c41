"""What a log is: partitions of Avro records with offsets, read in order from anywhere, appended to by one at a time."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import TracebackType
from typing import Any, Protocol, Self

import fastavro

Schema = Mapping[str, Any]
# What fastavro raises on bytes that are no datum: whatever its C code stumbles over.
UNDECODABLE = (EOFError, ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError, StopIteration)


class LogError(ValueError):
    """A log that is not laid out as a log, or an offset that it does not have."""


class ReplacedError(LogError):
    """A file of a log that was read before, and in whose place there is another: what was known of it is forgotten."""


class LockedError(OSError):
    """A partition that someone else is appending to."""


@dataclass(frozen=True, slots=True)
class Part:
    """Records of a chunk that were framed on their own: ``count`` of them in ``size`` bytes.

    ``damage`` says why the bytes are not datums at all (a codec that did not recognise them).
    """

    count: int
    size: int
    damage: str = ""


@dataclass(frozen=True)
class Chunk:
    """Contiguous records of one partition, not decoded.

    ``payload``: ``count`` concatenated Avro datums written with ``schema`` (JSON), the first at ``offset``. ``parts``
    (none: one part) say how they were framed, so that a part that cannot be decoded does not spoil its neighbours.
    """

    partition: int
    offset: int
    count: int
    schema: str
    payload: bytes
    parts: tuple[Part, ...] = ()

    @property
    def end(self) -> int:
        """The offset after the last record."""
        return self.offset + self.count

    def split(self) -> Iterator[tuple[Chunk, str]]:
        """Each part as a chunk, with its damage ('' for none)."""
        offset = at = 0
        for part in self.parts or (Part(self.count, len(self.payload)),):
            payload = self.payload[at : at + part.size]
            yield Chunk(self.partition, self.offset + offset, part.count, self.schema, payload), part.damage
            offset, at = offset + part.count, at + part.size


class Appender(Protocol):
    """The one writer of a partition."""

    def append(self, records: Sequence[Mapping[str, Any]]) -> int:
        """Append all records or none; the offset of the first.

        On return they survive the death of this process. ValueError if a record does not fit the schema.
        """

    def append_payload(self, count: int, payload: bytes) -> int:
        """Append ``count`` datums that are encoded already; nobody looks whether they are."""

    def close(self) -> None:
        """Let others append to the partition."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Log(Protocol):
    """A partitioned, append-only log. Reading never blocks, and one log object may be read from several threads."""

    @property
    def uri(self) -> str:
        """What ``open_log`` opens it by."""

    def partitions(self) -> list[int]:
        """The numbers of the partitions there are now, ascending; more may come."""

    def end(self, partition: int) -> int:
        """The offset after the last complete record; 0 for a partition that is not there (yet)."""

    def read(self, partition: int, offset: int, max_records: int) -> list[Chunk]:
        """Records from exactly ``offset`` on, in order and without gaps; [] when there is nothing new.

        About ``max_records`` at most: what was framed together and starts within the bound comes whole.
        LogError for an offset beyond the end or no longer kept.
        """

    def offset_for_time(self, partition: int, time_us: int, disorder_us: int) -> int:
        """An offset such that every record whose ``time`` is at or after ``time_us`` lies at or after it.

        ``disorder_us``: records are appended at most so long after their time. Near, not exact: may be any earlier.
        """

    def appender(self, partition: int, schema: Schema, shared: bool = False) -> Appender:
        """Start to append; LockedError if another appender is open on the partition, in any process.

        With ``shared`` several may be open, in any processes, and take turns: each append waits for the one before it,
        and raises LockedError if that takes long, as it does where an appender is open that shares with nobody.
        """


def open_log(uri: str, partitions: int = 0) -> Log:
    """The log at ``file:DIRECTORY`` or a plain path; it need not be there yet.

    ``partitions``: how many a writer wants there to be; 0: as many as are found.
    """
    from monobeam.logs.file import FileLog

    kind, separator, place = uri.partition(":")
    if uri and not separator:
        return FileLog(uri, partitions)
    if kind == "file" and place:
        return FileLog(place.removeprefix("//"), partitions)
    raise ValueError(f"log {uri!r}: must be file:DIRECTORY or a path")


@lru_cache(maxsize=256)
def parsed(schema: str) -> Any:
    """fastavro's own form of a schema in JSON; ValueError if it is none."""
    try:
        return fastavro.parse_schema(json.loads(schema))
    except (fastavro.schema.SchemaParseException, fastavro.schema.UnknownType) as error:
        raise ValueError(f"schema {schema[:200]}: {error}") from error


def encode_records(schema: str, records: Iterable[Mapping[str, Any]]) -> bytes:
    """Concatenated datums; ValueError quotes the record that does not fit."""
    return b"".join(encode_pieces(schema, records))


def encode_pieces(schema: str, records: Iterable[Mapping[str, Any]]) -> list[bytes | bytearray]:
    """The datums as fastavro wrote them, mostly one piece for each: a sync event is large, and every copy is felt."""
    parsed_schema, sink = parsed(schema), _Pieces()
    for record in records:
        try:
            fastavro.schemaless_writer(sink, parsed_schema, record)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError) as error:
            raise ValueError(f"record {str(record)[:200]}: does not fit its schema: {error!r}") from error
    return sink.written


class _Pieces:
    """What fastavro writes to: keeps what comes as it comes."""

    def __init__(self) -> None:
        self.written: list[bytes | bytearray] = []
        self.write = self.written.append


def records(chunks: Iterable[Chunk]) -> list[dict[str, Any]]:
    """Every record as a dict, one by one: for small logs. ValueError if one cannot be decoded."""
    found: list[dict[str, Any]] = []
    for chunk in chunks:
        for part, damage in chunk.split():
            data = io.BytesIO(part.payload)
            schema = parsed(part.schema)
            try:
                if damage:
                    raise ValueError(damage)
                found.extend(fastavro.schemaless_reader(data, schema, None) for _ in range(part.count))
            except UNDECODABLE as error:
                where = f"partition {part.partition}, offset {part.offset} and on"
                raise ValueError(f"{where}: {part.payload[:16].hex()}...: undecodable: {error!r}") from error
    return found


def clip(chunk: Chunk, start: int, stop: int) -> Chunk:
    """The records of a chunk with start <= offset < stop; datums are decoded only where a bound cuts a part in two."""
    if start <= chunk.offset and chunk.end <= stop:
        return chunk
    payloads, parts = [], []
    for part, damage in chunk.split():
        low, high = max(start, part.offset), min(stop, part.end)
        if low < high:
            payload = part.payload
            if (low, high) != (part.offset, part.end) and not damage:
                payload = _between(part, low - part.offset, high - part.offset)
            payloads.append(payload)
            parts.append(Part(high - low, len(payload), damage))
    first = min(max(start, chunk.offset), chunk.end)
    count = sum(part.count for part in parts)
    return Chunk(chunk.partition, first, count, chunk.schema, b"".join(payloads), tuple(parts))


def _between(part: Chunk, first: int, stop: int) -> bytes:
    """The bytes of datums ``first`` to ``stop``; from the first one that cannot be decoded on, all there are."""
    data, schema = io.BytesIO(part.payload), parsed(part.schema)
    start = 0
    for index in range(stop):
        at = data.tell()
        if index == first:
            start = at
        try:
            fastavro.schemaless_reader(data, schema, None)
        except UNDECODABLE:
            return part.payload[at if index < first else start :]
    end = data.tell() if stop < part.count else len(part.payload)
    return part.payload[start:end]
