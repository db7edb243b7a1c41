"""What a backend holds, as messages: read through a shard server by serving, and put together again there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from monobeam.store.backend import Backend, Block, Changed, SeenKeys
from monobeam.store.changes import Change, merge
from monobeam.store.manifest import Manifest
from monobeam.store.publishing import Announcement
from monobeam.store.sync import TableChange, codec
from monobeam.store.wire import Array, Message, as_array

_PIECE_BYTES = 64 << 20


def manifest_header(manifest: Manifest | None) -> dict[str, Any]:
    """A manifest, or none, as JSON values."""
    return {"manifest": None if manifest is None else manifest.encode().decode()}


def manifest_of(header: Mapping[str, Any]) -> Manifest | None:
    """The manifest in a header."""
    text = header["manifest"]
    return None if text is None else Manifest.decode(text.encode())


def manifest_in(message: Message) -> Manifest:
    """The manifest in an answer that always has one."""
    manifest = manifest_of(message.header)
    assert manifest is not None
    return manifest


def announced(said: Announcement) -> tuple[dict[str, Any], list[Array]]:
    """An announcement as header and arrays."""
    header = {"time_us": said.time_us, "dense_version": said.dense_version, "dense": said.dense is not None}
    return header, [said.arrivals, *([] if said.dense is None else [as_array(said.dense)])]


def announcement_of(header: Mapping[str, Any], arrays: Sequence[Array]) -> Announcement:
    """The announcement in a message."""
    arrivals, *dense = arrays
    return Announcement(header["time_us"], header["dense_version"], dense[0].tobytes() if dense else None, arrivals)


def read(backend: Backend, what: str, header: Mapping[str, Any]) -> Iterator[Message]:
    """The answers to a request for ``what`` a backend holds."""
    if what == "manifest":
        yield Message(manifest_header(backend.manifest()))
    elif what == "load":
        manifest, blocks = backend.load(header["shard"])
        yield Message(manifest_header(manifest))
        for block in blocks:
            yield Message({"table": block.table}, (block.keys, block.rows))
    elif what == "changed":
        yield from _changed(backend.changed(header["shard"], header["since"]))
    elif what == "seen":
        for seen in backend.seen():
            yield Message({}, (seen.keys, seen.seconds))
    elif what == "dense":
        yield from _bytes(backend.dense(), {})
    elif what == "dense_values":
        values = backend.dense_values()
        yield from _bytes(values and values.values, {"version": values and values.version})
    else:
        raise ValueError(f"read {what!r}: there is no such thing")


def _bytes(data: bytes | None, header: Mapping[str, Any]) -> Iterator[Message]:
    if data is not None:
        yield Message(header, (as_array(data),))


def _changed(changed: Changed | None) -> Iterator[Message]:
    if changed is None:
        return
    yield Message({**manifest_header(changed.manifest), "complete": changed.complete})
    for name, change in changed.tables.items():
        for piece in _pieces(change):
            yield Message({"table": name}, (piece.keys, piece.rows, piece.deletes))


def _pieces(change: Change) -> Iterator[Change]:
    """A change in parts that fit into messages, at least one."""
    step = max(1, _PIECE_BYTES // (8 + change.rows.shape[1]))
    for start in range(0, max(1, len(change.keys)), step):
        deletes = change.deletes[: 0 if start else None]
        yield Change(change.keys[start : start + step], change.rows[start : start + step], deletes)


def changed_of(shard: int, messages: Iterator[Message]) -> Changed | None:
    """A difference out of the answers."""
    head = next(messages, None)
    if head is None:
        return None
    pieces: dict[str, list[Change]] = {}
    for header, (keys, rows, deletes) in messages:
        pieces.setdefault(header["table"], []).append(Change(keys, rows, deletes))
    tables = {name: merge(parts) if len(parts) > 1 else parts[0] for name, parts in pieces.items()}
    return Changed(manifest_in(head), shard, head.header["complete"], tables)


def block_of(message: Message) -> Block:
    """Rows out of an answer."""
    keys, rows = message.arrays
    return Block(message.header["table"], keys, rows)


def seen_of(message: Message) -> SeenKeys:
    """Example keys out of an answer."""
    keys, seconds = message.arrays
    return SeenKeys(keys, seconds)


def events_message(events: Mapping[int, Mapping[str, TableChange]], dtype: str) -> Message:
    """What changed for replicas, by shard and table, with values in the encoding of sync events."""
    pack = codec(dtype)[0]
    parts = [(shard, name, change) for shard, tables in events.items() for name, change in tables.items()]
    values = [as_array(pack(change.values)) for _, _, change in parts]
    header = {
        "shards": list(events),
        "dtype": dtype,
        "parts": [
            [shard, name, change.values.shape[1], len(change.keys), len(data), len(change.deletes)]
            for (shard, name, change), data in zip(parts, values, strict=True)
        ],
    }
    keys, deletes = [c.keys for _, _, c in parts], [c.deletes for _, _, c in parts]
    none = np.empty(0, np.uint64)
    arrays = (
        np.concatenate([none, *keys]),
        np.concatenate([none.view(np.uint8), *values]),
        np.concatenate([none, *deletes]),
    )
    return Message(header, arrays)


def events_of(message: Message) -> dict[int, dict[str, TableChange]]:
    """What ``events_message`` said, values as float32."""
    header, (keys, values, deletes) = message
    unpack = codec(header["dtype"])[1]
    events: dict[int, dict[str, TableChange]] = {shard: {} for shard in header["shards"]}
    key = value = delete = 0
    for shard, name, dim, count, size, deleted in header["parts"]:
        rows = unpack(values[value : value + size].tobytes()).reshape(count, dim)
        gone = deletes[delete : delete + deleted]
        events[shard][name] = TableChange(keys[key : key + count], rows, gone)
        key, value, delete = key + count, value + size, delete + deleted
    return events
