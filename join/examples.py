"""Examples as blocks, in the one canonical order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from monobeam.join import promotion
from monobeam.join.features import Features, Gathered, copied
from monobeam.join.frame import Columns, Rows, take
from monobeam.join.settings import JoinSettings

JOINED, NEGATIVE, CORRECTION = 0, 1, 2
"""Kinds of examples: with a positive label, with none, and the correction that a later action brings."""

EXAMPLE_LAYOUT = {
    "id": object,
    "time": np.int64,
    "decided": np.int64,
    "kind": np.uint8,
    "key": np.uint64,
    "arrival": np.int64,
    "ref": np.int64,
}


def blocks(examples: Columns, features: Features, settings: JoinSettings) -> Iterator[pa.RecordBatch]:
    """Blocks of examples ordered by (decided, id, kind, key), cut at every tick and at ``max_block_rows``.

    ``examples`` has the columns of EXAMPLE_LAYOUT, `labels` bool[n, labels], and `known` of the same shape: labels that
    an example says something about. Block columns: `_key` uint64, `_id`, `_time`, `_decided` int64 us, `_kind` uint8,
    `_weight` and `_rate` (the share that was kept of examples like this one) float, `_arrival` int64 us,
    `_label.<name>` float, null where it is not known, then the features in order of name. Schema metadata:
    kind=examples, shard, tick.
    """
    if not len(examples["id"]):
        return
    examples = take(examples, _order(examples))
    columns = _columns(examples, settings)
    gathered = features.gather(examples["ref"])
    ticks = examples["decided"] // settings.tick_us
    for lo, hi in _cuts(ticks, settings.max_block_rows):
        # Copies, as a slice would be encoded with some bytes of its neighbours.
        head, part = copied(columns, np.arange(lo, hi)), _part(gathered, lo, hi)
        metadata = {b"kind": b"examples", b"shard": str(settings.shard).encode(), b"tick": str(ticks[lo]).encode()}
        schema = pa.schema([*head.schema, *part.schema], metadata)
        yield pa.RecordBatch.from_arrays([*head.columns, *part.columns], schema=schema)


def _order(examples: Columns) -> Rows:
    keys = ("decided", "id", "kind", "key")
    table = pa.RecordBatch.from_arrays([pa.array(examples[key]) for key in keys], list(keys))
    order: Rows = pc.sort_indices(table, sort_keys=[(key, "ascending") for key in keys]).to_numpy()
    return order


def _columns(examples: Columns, settings: JoinSettings) -> pa.RecordBatch:
    count = len(examples["id"])
    labels, unknown = examples["labels"].astype(np.float32), ~examples["known"]
    rates = np.where(examples["kind"] == NEGATIVE, settings.negative_rate, 1.0).astype(np.float32)
    columns = {
        "_key": pa.array(examples["key"]),
        "_id": pa.array(examples["id"], pa.string()),
        "_time": pa.array(examples["time"]),
        "_decided": pa.array(examples["decided"]),
        "_kind": pa.array(examples["kind"]),
        "_weight": pa.array(np.ones(count, np.float32)),
        "_rate": pa.array(rates),
        "_arrival": pa.array(examples["arrival"]),
        **{
            f"_label.{label.name}": pa.array(labels[:, i], mask=unknown[:, i])
            for i, label in enumerate(settings.labels)
        },
    }
    return pa.RecordBatch.from_pydict(columns)


def _cuts(ticks: Rows, max_rows: int) -> Iterator[tuple[int, int]]:
    starts = np.flatnonzero(np.r_[True, ticks[1:] != ticks[:-1]]).tolist()
    for start, end in zip(starts, [*starts[1:], len(ticks)], strict=True):
        for lo in range(start, end, max_rows):
            yield lo, min(lo + max_rows, end)


def _part(gathered: list[Gathered], lo: int, hi: int) -> pa.RecordBatch:
    """The features of rows [lo, hi); the schemas of other rows have no say in them."""
    places, parts = [], []
    for where, batch, rows in gathered:
        first, last = np.searchsorted(where, [lo, hi]).tolist()
        if last > first:
            places.append(where[first:last])
            parts.append(copied(batch, rows[first:last]))
    if len(parts) == 1:
        return parts[0]
    return copied(promotion.concat(parts), np.argsort(np.concatenate(places)))
