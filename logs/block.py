"""Blocks: a few thousand records as one Arrow record batch, in IPC stream bytes. The only thing that Beam moves."""

from __future__ import annotations

import pyarrow as pa

KINDS = ("impressions", "actions", "rejects", "examples")


def encode(batch: pa.RecordBatch) -> bytes:
    """One batch and its schema, metadata included, as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue().to_pybytes()  # type: ignore[no-any-return]


def decode(data: bytes) -> pa.RecordBatch:
    """The batch in ``data``, without a copy; ValueError if it is no Arrow IPC stream of one batch."""
    try:
        return pa.ipc.open_stream(pa.py_buffer(data)).read_next_batch()
    except (pa.ArrowInvalid, StopIteration, OSError) as error:
        raise ValueError(f"{len(data)} bytes {data[:16].hex()}...: must be an Arrow IPC stream of one batch") from error


def label(batch: pa.RecordBatch, kind: str, log: str) -> pa.RecordBatch:
    """The same batch, saying in its schema's metadata what it holds and which log it is from."""
    if kind not in KINDS:
        raise ValueError(f"kind {kind!r}: must be one of {', '.join(KINDS)}")
    metadata = {**(batch.schema.metadata or {}), b"kind": kind.encode(), b"log": log.encode()}
    return batch.replace_schema_metadata(metadata)


def label_known_from(batch: pa.RecordBatch, time_us: int) -> pa.RecordBatch:
    """The same batch, saying that records of an earlier time came when event time was there already."""
    return batch.replace_schema_metadata({**(batch.schema.metadata or {}), b"known_from": str(time_us).encode()})


def known_from(batch: pa.RecordBatch) -> int | None:
    """The event time at which the earliest records of a batch count as known; None: at their own."""
    found = (batch.schema.metadata or {}).get(b"known_from")
    return None if found is None else int(found)


def kind(batch: pa.RecordBatch) -> str:
    """What a labelled batch holds: one of KINDS; '' if it is not labelled."""
    return (batch.schema.metadata or {}).get(b"kind", b"").decode()  # type: ignore[no-any-return]


def log(batch: pa.RecordBatch) -> str:
    """The name of the log that a labelled batch is from; '' if it is not labelled."""
    return (batch.schema.metadata or {}).get(b"log", b"").decode()  # type: ignore[no-any-return]
