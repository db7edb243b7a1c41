"""The features of impressions while the engine may need them, as the batches in which they came."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from monobeam.join.frame import Frame, Rows


class Gathered(NamedTuple):
    """Rows of one schema: their places among all that were asked for, ascending, and the row of ``batch`` for each."""

    places: Rows
    batch: pa.RecordBatch
    rows: Rows


class Features:
    """Feature rows by number; a batch is let go once all its rows are released.

    Rows keep the schema that they came with, for the schema of a block must depend on the rows in it alone and not on
    what was in memory beside them.
    """

    def __init__(self) -> None:
        self._end = 0
        self._chunks = Frame({"start": np.int64, "held": np.int64})
        self._batches: dict[int, pa.RecordBatch] = {}
        self._schemas: dict[pa.Schema, int] = {}
        self._schema_of: dict[int, int] = {}

    def add(self, batch: pa.RecordBatch) -> Rows:
        """Keep the columns of a block that are features (no leading underscore); returns the numbers of its rows."""
        batch = batch.select(sorted(name for name in batch.schema.names if not name.startswith("_")))
        batch = batch.replace_schema_metadata(None)
        rows = np.arange(self._end, self._end + batch.num_rows)
        if not batch.num_rows:
            return rows
        (chunk,) = self._chunks.append({"start": rows[:1], "held": np.array([batch.num_rows])}).tolist()
        self._batches[chunk] = batch
        self._schema_of[chunk] = self._schemas.setdefault(batch.schema, len(self._schemas))
        self._end += batch.num_rows
        return rows

    def release(self, rows: Rows) -> None:
        """Let some rows go."""
        if not len(rows):
            return
        chunks, counts = counted(self._chunk_of(rows))
        left = self._chunks.get("held", chunks) - counts
        self._chunks.set("held", chunks, left)
        gone = chunks[left == 0]
        self._chunks.drop(gone)
        for chunk in gone.tolist():
            del self._batches[chunk], self._schema_of[chunk]

    def gather(self, rows: Rows) -> list[Gathered]:
        """The features of some rows, by schema."""
        chunks = self._chunk_of(rows)
        by_schema: dict[int, list[int]] = {}
        for chunk in counted(chunks)[0].tolist() if len(rows) else ():
            by_schema.setdefault(self._schema_of[chunk], []).append(chunk)
        if len(by_schema) == 1:
            return [self._gather(np.arange(len(rows)), rows, chunks)]
        places = [np.flatnonzero(np.isin(chunks, members)) for members in by_schema.values()]
        return [self._gather(some, rows[some], chunks[some]) for some in places]

    def _gather(self, places: Rows, rows: Rows, chunks: Rows) -> Gathered:
        order = np.argsort(chunks, kind="stable")
        involved, counts = counted(chunks)
        starts = self._chunks.get("start", involved).tolist()
        where, pieces, height = np.empty(len(rows), np.int64), [], 0
        for chunk, start, some in zip(involved.tolist(), starts, np.split(order, np.cumsum(counts)[:-1]), strict=True):
            piece, local = narrowed(self._batches[chunk], rows[some] - start)
            where[some] = local + height
            pieces.append(piece)
            height += piece.num_rows
        return Gathered(places, pieces[0] if len(pieces) == 1 else pa.concat_batches(pieces), where)

    def _chunk_of(self, rows: Rows) -> Rows:
        return np.searchsorted(self._chunks.view("start"), rows, side="right") - 1 + self._chunks.start


def counted(numbers: Rows) -> tuple[Rows, Rows]:
    """The distinct ones of neighbouring numbers, ascending, and how often each is there."""
    low = numbers.min()
    counts = np.bincount(numbers - low)
    distinct = np.flatnonzero(counts)
    return distinct + low, counts[distinct]


def narrowed(batch: pa.RecordBatch, rows: Rows) -> tuple[pa.RecordBatch, Rows]:
    """A part of a batch that has some of its rows, and where they are in it; a copy if few of many are wanted."""
    low, high = int(rows.min()), int(rows.max()) + 1
    if high - low <= 4 * len(rows):
        return batch.slice(low, high - low), rows - low
    return copied(batch, rows), np.arange(len(rows))


def copied(batch: pa.RecordBatch, rows: Rows) -> pa.RecordBatch:
    """Some rows of a batch, in the given order, in buffers that depend on their values alone."""
    return batch.take(pa.array(rows)) if batch.num_columns else batch.slice(0, len(rows))
