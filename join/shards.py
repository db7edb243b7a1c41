"""Records to the shards of the join, by the hash of the impression's id."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from monobeam.logs import block
from monobeam.native import hash_column

_SHARD_SEED = 0x7368617264


def split(batch: pa.RecordBatch, n: int) -> list[tuple[int, pa.RecordBatch]]:
    """The rows of each of ``n`` shards, in order: [(shard, its rows)], shards without rows left out.

    A pure function of `_id`; rejects have none and go to shard `_partition` % n.
    """
    if n == 1 or batch.num_rows == 0:
        return [(0, batch)] if batch.num_rows else []
    if block.kind(batch) == "rejects":
        shards = batch.column("_partition").to_numpy() % n
    else:
        shards = (hash_column(batch.column("_id"), _SHARD_SEED) % np.uint64(n)).astype(np.int64)
    order = np.argsort(shards, kind="stable")
    ends = np.cumsum(np.bincount(shards, minlength=n))
    sorted_rows = batch.take(pa.array(order))
    bounds = zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)
    return [(shard, sorted_rows.slice(lo, hi - lo)) for shard, (lo, hi) in enumerate(bounds) if hi > lo]


def rejects_block(kind: str, count: int, log: str, partition: int, offset: int) -> pa.RecordBatch:
    """A block of kind rejects: ``count`` records of a log of impressions or actions that could not be used.

    Columns: `_kind` string (impressions | actions), `_count` int64, `_partition` int32, `_offset` int64.
    """
    if kind not in ("impressions", "actions"):
        raise ValueError(f"kind={kind!r}: must be impressions or actions")
    columns = {
        "_kind": pa.array([kind], pa.string()),
        "_count": pa.array([count], pa.int64()),
        "_partition": pa.array([partition], pa.int32()),
        "_offset": pa.array([offset], pa.int64()),
    }
    return block.label(pa.RecordBatch.from_pydict(columns), "rejects", log)
