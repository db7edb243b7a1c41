"""The state of an engine as bytes.

Format: the magic, the length of the header as uint32 little endian, the header as JSON, then Arrow IPC streams one
after the other, whose lengths the header gives. Tables of rows come first, then the features of pending impressions,
one stream for each schema; `ref` counts through their rows.
"""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np
import pyarrow as pa

from monobeam.join.counters import NAMES
from monobeam.join.features import Features, copied
from monobeam.join.frame import Columns
from monobeam.join.hot import MET_LAYOUT
from monobeam.join.names import Names
from monobeam.join.settings import JoinSettings
from monobeam.join.state import State
from monobeam.logs import block

MAGIC = b"monobeam.join/2\n"
_LENGTH = struct.Struct("<I")
_TABLES = ("impressions", "actions", "waiting", "hot", "met")


def save(settings: JoinSettings, state: State) -> bytes:
    """Everything in a state; ``load`` gives a state that behaves the same from here on."""
    slots = state.hot.rows.alive()
    places, met = state.hot.remembered(slots)
    hot = state.hot.rows.take(slots)
    del hot["tail"]
    tables = {
        "impressions": state.impressions.all(),
        "actions": state.actions.all(),
        "waiting": state.waiting.rows.take(state.waiting.rows.alive()),
        "hot": hot,
        "met": {name: state.hot.met.get(name, met) for name in MET_LAYOUT} | {"place": places},
    }
    features = _renumber(state.hot.features, [tables["impressions"], tables["hot"]])
    pieces = [block.encode(_to_batch(tables[name])) for name in _TABLES] + [block.encode(batch) for batch in features]
    header = {
        "labels": [label.name for label in settings.labels],
        "watermark": state.watermark,
        "latest": state.latest,
        "counters": state.counters.counts,
        "logs": state.logs.names,
        "types": state.types.names,
        "pieces": [len(piece) for piece in pieces],
    }
    text = json.dumps(header).encode()
    return b"".join([MAGIC, _LENGTH.pack(len(text)), text, *pieces])


def load(settings: JoinSettings, data: bytes) -> State:
    """The state that was saved.

    Raises:
        ValueError: if the bytes are no snapshot of this version, are cut short, or are of a join with other labels.
    """
    header, pieces = _open(data)
    labels = [label.name for label in settings.labels]
    if header["labels"] != labels:
        raise ValueError(f"snapshot of a join with labels {header['labels']}: must be {labels}, as in the settings")
    tables = {name: _to_columns(block.decode(pieces[i])) for i, name in enumerate(_TABLES)}
    state = State(settings)
    state.watermark, state.latest = header["watermark"], header["latest"]
    state.counters.counts = {name: header["counters"].get(name, 0) for name in NAMES}
    state.logs, state.types = Names(header["logs"]), Names(header["types"])
    for piece in pieces[len(_TABLES) :]:
        state.hot.features.add(block.decode(piece))
    state.impressions.push(tables["impressions"])
    state.actions.push(tables["actions"])
    state.waiting.add(tables["waiting"])
    state.hot.restore(tables["hot"], tables["met"])
    return state


def _open(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    start = len(MAGIC) + _LENGTH.size
    if data[: len(MAGIC)] != MAGIC or len(data) < start:
        raise ValueError(f"snapshot begins with {data[: len(MAGIC)]!r}: must begin with {MAGIC!r}")
    end = start + _LENGTH.unpack_from(data, len(MAGIC))[0]
    try:
        header = json.loads(data[start:end])
    except ValueError as error:
        raise ValueError(f"snapshot of {len(data)} bytes: its header is damaged") from error
    pieces = []
    for length in header["pieces"]:
        pieces.append(data[end : end + length])
        end += length
    if end != len(data):
        raise ValueError(f"snapshot of {len(data)} bytes: must be {end}")
    return header, pieces


def _renumber(features: Features, tables: list[Columns]) -> list[pa.RecordBatch]:
    """The features that the tables refer to, by schema; `ref` becomes the place in them."""
    refs = np.sort(np.concatenate([table["ref"] for table in tables]))
    if not len(refs):
        return []
    gathered = features.gather(refs)  # refs ascend, so the rows of each schema keep their order
    number = np.empty(len(refs), np.int64)
    number[np.concatenate([places for places, _, _ in gathered])] = np.arange(len(refs))
    for table in tables:
        table["ref"] = number[np.searchsorted(refs, table["ref"])]
    return [copied(batch, where) for _, batch, where in gathered]


def _to_batch(columns: Columns) -> pa.RecordBatch:
    arrays = {}
    for name, column in columns.items():
        if column.ndim == 2:
            arrays[name] = pa.FixedSizeListArray.from_arrays(pa.array(column.ravel()), column.shape[1])
        else:
            arrays[name] = pa.array(column, pa.string() if column.dtype == object else None)
    return pa.RecordBatch.from_pydict(arrays)


def _to_columns(batch: pa.RecordBatch) -> Columns:
    columns = {}
    for name, array in zip(batch.schema.names, batch.columns, strict=True):
        if pa.types.is_fixed_size_list(array.type):
            columns[name] = array.flatten().to_numpy().reshape(len(array), array.type.list_size)
        else:
            columns[name] = array.to_numpy(zero_copy_only=False)
    return columns
